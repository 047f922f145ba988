package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// SetSysctl gives a setting of the kernel a value (sysctl(8); slashes stand where others write
// dots: net/ipv4/ip_forward). One that has it already is left alone, for in a container nobody may
// write to /proc/sys. Those below net are of the thread's network namespace. The error
// wraps fs.ErrNotExist where the kernel has no such setting: without IPv6, say.
func SetSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	have, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w (in a container without all rights nobody writes to /proc/sys: have the host do it, in the same network namespace, by `sysctl -w %s=%s`)", err, name, value)
}
