package sys

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSetSysctl: a setting gets a value; where nobody may write, one that has it already is no error, and
// of another the error says what to do.
func TestSetSysctl(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root (namespaces of its own)")
	}
	const forward = "net/ipv4/ip_forward"
	err := OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			return errNoNamespaces
		}
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), SetSysctl(forward, "1")); err != nil {
			return err
		}
		if err := SetSysctl("net/ipv4/no_such_setting", "1"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of a setting that there is not: %v", err)
		}
		// As container runtimes do.
		err := errors.Join(unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""), unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		if err != nil {
			return err
		}
		if err := SetSysctl(forward, "0"); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "`sysctl -w net/ipv4/ip_forward=0`") {
			t.Errorf("of one that cannot be written: %v", err)
		}
		return SetSysctl(forward, "1")
	})
	if errors.Is(err, errNoNamespaces) {
		t.Skip(err)
	}
	if err != nil {
		t.Error(err)
	}
}

var errNoNamespaces = errors.New("needs namespaces")
