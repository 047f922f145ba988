package tap

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Impediment says why this process cannot make devices, with the remedy, or
// nothing if it can. It changes nothing.
func Impediment() string {
	n, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "open " + tunPath + ": " + err.Error() + remedy(err)
	}
	_ = unix.Close(n)
	if err := admin(); err != nil {
		return "make a network device: " + err.Error() + remedy(err)
	}
	return ""
}

// admin reports an error if the process lacks CAP_NET_ADMIN.
func admin() error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return errors.Join(errors.New("ask for capabilities"), err)
	}
	if d[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return unix.EPERM
	}
	return nil
}
