package acceptance

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// program is the millrace that the tests run, built by TestMain.
var program string

// TestMain builds the program once, as `make build` does. In a process that a
// test has started as a guest, it is the guest.
func TestMain(m *testing.M) {
	if config := os.Getenv(guestEnv); config != "" {
		fmt.Fprintln(os.Stderr, guestMain(config))
		os.Exit(1)
	}
	if os.Getenv(serversEnv) != "" {
		fmt.Fprintln(os.Stderr, serversMain())
		os.Exit(1)
	}
	if config := os.Getenv(egressServerEnv); config != "" {
		fmt.Fprintln(os.Stderr, egressServerMain(config))
		os.Exit(1)
	}
	flag.Parse()
	os.Exit(mainCode(m))
}

func mainCode(m *testing.M) int {
	if testing.Short() {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "millrace-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "millrace")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, "millrace/cmd/millrace")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if runtime.GOARCH == "amd64" {
		build.Env = append(build.Env, "GOAMD64=v3")
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
		return 1
	}
	return m.Run()
}
