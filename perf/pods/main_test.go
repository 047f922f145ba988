package pods

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"millrace/dataplane/tap/taptest"
)

// programs is a directory with millrace and millrace-cni; MILLRACE_TEST_PROGRAMS
// names one that is there already.
var programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("MILLRACE_TEST_PROGRAMS"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "mr-pods-bin-")
	if err != nil {
		return "", err
	}
	built = dir
	for _, name := range []string{"millrace", "millrace-cni"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), "millrace/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v3")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, &buildError{name, string(out), err}
		}
	}
	return dir, nil
})

type buildError struct {
	name, out string
	err       error
}

func (e *buildError) Error() string { return "build " + e.name + ": " + e.err.Error() + "\n" + e.out }

// built is the directory that programs has made; "": none.
var built string

// TestMain runs the tests in namespaces of their own.
func TestMain(m *testing.M) {
	code := taptest.Run(m)
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}
