package afxdp

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
)

// silence keeps both ends of a pod's veth from sending anything by themselves.
func silence(t *testing.T, p *netnstest.Pod) {
	t.Helper()
	noIPv6 := func(name string) error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644)
	}
	err := p.Do(func() error { return noIPv6("eth0") })
	if err := errors.Join(err, noIPv6(p.Host)); err != nil {
		t.Fatal(err)
	}
}

// kernelSays are the kernel's own counters of a device.
func kernelSays(t *testing.T, name string) netlink.LinkStatistics {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return *l.Attrs().Statistics
}

// TestAccount sends more than the switch can carry: each frame that the kernel
// counts for the device is counted by the port, sent or dropped under a name.
func TestAccount(t *testing.T) {
	for _, mode := range []Mode{Native, Generic} {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, dataplane.PollAdaptive)
			r.o.Mode = mode
			a, b := netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)
			silence(t, a)
			silence(t, b)
			r.add("pa")
			r.add("pb")
			r.up("pa", "pb")
			rx0, tx0 := kernelSays(t, "pa").RxPackets, kernelSays(t, "pb").TxPackets
			port0 := map[string]dataplane.PortStats{}
			for _, s := range r.sw.Snapshot().Ports {
				port0[s.Name] = s
			}
			f := newFlood(t, a, 60)
			go f.run()
			netnstest.Wait(t, func() string {
				if n := f.sent.Load(); n < 100_000 {
					return fmt.Sprintf("%d frames sent", n)
				}
				return ""
			})
			f.stop.Store(true)
			<-f.done
			defer f.sock.close()
			netnstest.Wait(t, func() string {
				stats := map[string]dataplane.PortStats{}
				for _, s := range r.sw.Snapshot().Ports {
					stats[s.Name] = s
				}
				pa, pb := stats["pa"], stats["pb"]
				rx, tx := kernelSays(t, "pa").RxPackets-rx0, kernelSays(t, "pb").TxPackets-tx0
				got, sent := pa.RxFrames-port0["pa"].RxFrames, pb.TxFrames-port0["pb"].TxFrames
				if got != rx || sent != tx {
					return fmt.Sprintf("kernel says %d in and %d out, the ports say %d and %d; drops in %v, out %v", rx, tx, got, sent, pa.RxDrops, pb.TxDrops)
				}
				t.Logf("%d sent by the pod, %d in, %d out, drops in %v, out %v", f.sent.Load(), got, sent, pa.RxDrops, pb.TxDrops)
				return ""
			})
			r.balanced()
		})
	}
}
