package afxdp

import (
	"fmt"
	"net/netip"
	"testing"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
	"millrace/dataplane/tap"
)

// tapOf is a TAP port as the dataplane wants to see it, as cmd does.
type tapOf struct{ *tap.Port }

func (d tapOf) Rx() []dataplane.RxQueue { return []dataplane.RxQueue{d.RxQueues()[0]} }
func (d tapOf) Tx() dataplane.TxQueue   { return d.TxQueue() }
func (d tapOf) State() dataplane.DeviceState {
	s := d.Port.State()
	return dataplane.DeviceState{Link: dataplane.Link(s.Link), Reason: s.Reason}
}

// TestFinished: a pod on a TAP port, which sends super-frames without checksums, talks TCP to
// one behind a device that takes neither. It gets segments, and finds no checksum wrong.
func TestFinished(t *testing.T) {
	netnstest.Need(t, "iperf3")
	kernel := &tap.Kernel{}
	t.Cleanup(func() {
		if err := kernel.Close(); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, dataplane.PollAdaptive)
	a, b := netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)
	b.Address(2)
	r.taps = func(s dataplane.PortSpec, env dataplane.Env) (dataplane.Device, error) {
		p, err := tap.Open(tap.Options{
			Name: s.Name, Netns: fmt.Sprintf("/proc/%d/ns/net", a.PID()), Kernel: kernel, Quiesce: env.Quiesce, Changed: env.Changed,
			Settings: tap.Settings{Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd09::1/64")}},
		})
		if err != nil {
			return nil, err
		}
		return tapOf{p}, nil
	}
	if _, err := r.sw.AddPort(t.Context(), dataplane.PortSpec{Bridge: "br0", Name: "tap0", Type: dataplane.TypeTAP}); err != nil {
		t.Fatal(err)
	}
	r.add("pb")
	r.up("pb", "tap0")
	a.Reach("10.9.0.2", 1400)
	a.Reach("fd09::2", 1400)
	for i, to := range []string{"10.9.0.2", "fd09::2"} {
		b.Start("iperf3 -s -1 -p %d", 5201+i)
		netnstest.Wait(t, func() string {
			if out, err := a.Try("iperf3 -c %s -p %d -n 8M", to, 5201+i); err != nil {
				return out
			}
			return ""
		})
	}
	for _, p := range []*netnstest.Pod{a, b} {
		if n := p.Counter("Tcp", "InCsumErrors"); n != 0 {
			t.Errorf("pod %s: %d wrong checksums", p.Host, n)
		}
	}
	for _, s := range r.sw.Snapshot().Ports {
		if s.Name == "pb" && (s.Finished.TCP == 0 || s.Finished.Sums <= s.Finished.Segments) {
			t.Errorf("finished for the device: %+v", s.Finished)
		}
	}
	r.balanced()
}
