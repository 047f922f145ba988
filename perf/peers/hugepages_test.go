package peers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestHugepages checks that pages are added and given back, also those of a
// process that died with them.
func TestHugepages(t *testing.T) {
	Need(t, "root", "hugepages")
	pool := func() int {
		t.Helper()
		n, err := readInt(pagesFile)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	release, err := Hugepages(1) // so that no claim of others is left to be dropped
	SkipMissing(t, err)
	before := pool()

	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	claim := filepath.Join(claimsDir, fmt.Sprintf("%d.test", dead.Process.Pid))
	if err := os.WriteFile(claim, []byte("3"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := changePages(3); err != nil {
		t.Fatal(err)
	}
	second, err := Hugepages(2)
	SkipMissing(t, err)
	if got, want := pool(), before+2; got != want {
		t.Errorf("%d pages after a dead claim of 3 and one of 2, want %d", got, want)
	}
	second()
	release()
	if got, want := pool(), before-1; got != want {
		t.Errorf("%d pages at the end, want %d", got, want)
	}
}
