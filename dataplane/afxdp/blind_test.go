package afxdp

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"millrace/dataplane/netnstest"
)

// TestBlind: a port whose device cannot be looked at, for want of descriptors, goes on
// sending.
func TestBlind(t *testing.T) {
	needXDP(t)
	netnstest.IP(t, "link add blind0 type veth peer name blind1")
	t.Cleanup(func() { netnstest.IP(t, "link del blind0") })
	netnstest.IP(t, "link set blind0 up")
	netnstest.IP(t, "link set blind1 up")
	core, logs := observer.New(zap.WarnLevel)
	p, err := Open(Options{Name: "blind0", Log: zap.New(core), Watcher: &Watcher{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	works := func() string {
		if st := p.State(); st.Link != LinkUp || p.tx.set.Load() == nil {
			return "the port is " + string(st.Link) + ": " + st.Reason
		}
		return ""
	}
	netnstest.Wait(t, works)

	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	none := most
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	restore := func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &most) }
	defer restore()
	netnstest.Wait(t, func() string {
		p.watch.poke()
		if logs.FilterMessage("the device cannot be looked at: the port goes on as it is").Len() == 0 && works() == "" {
			return "the port has not looked"
		}
		return ""
	})
	if why := works(); why != "" {
		t.Error(why)
	}
	restore()
	netnstest.IP(t, "link set blind0 down")
	netnstest.Wait(t, func() string {
		if st := p.State(); st.Link != LinkWaiting {
			return "the port has not seen that its device is down"
		}
		return ""
	})
}
