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

// offloadRig is a switch with a pod on a TAP port, tap0, and one behind a device, pb.
func offloadRig(t *testing.T, tapOptions map[string]string) (r *rig, a, b *netnstest.Pod) {
	t.Helper()
	netnstest.Need(t, "iperf3")
	kernel := &tap.Kernel{}
	t.Cleanup(func() {
		if err := kernel.Close(); err != nil {
			t.Error(err)
		}
	})
	r = newRig(t, dataplane.PollAdaptive)
	a, b = netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)
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
	if _, err := r.sw.AddPort(t.Context(), dataplane.PortSpec{Bridge: "br0", Name: "tap0", Type: dataplane.TypeTAP, Options: tapOptions}); err != nil {
		t.Fatal(err)
	}
	r.add("pb")
	r.up("pb", "tap0")
	a.Reach("10.9.0.2", 1400)
	a.Reach("fd09::2", 1400)
	return r, a, b
}

// sendTCP sends from one pod to addresses of another, and has no checksum found wrong.
func sendTCP(t *testing.T, from, to *netnstest.Pod, addresses ...string) {
	t.Helper()
	for i, a := range addresses {
		to.Start("iperf3 -s -1 -p %d", 5201+i)
		netnstest.Wait(t, func() string {
			if out, err := from.Try("iperf3 -c %s -p %d -n 8M", a, 5201+i); err != nil {
				return out
			}
			return ""
		})
	}
	for _, p := range []*netnstest.Pod{from, to} {
		if n := p.Counter("Tcp", "InCsumErrors"); n != 0 {
			t.Errorf("pod %s: %d wrong checksums", p.Host, n)
		}
	}
}

// finishedFor is what was done to frames on their way to a port.
func (r *rig) finishedFor(name string) dataplane.Finished {
	for _, s := range r.sw.Snapshot().Ports {
		if s.Name == name {
			return s.Finished
		}
	}
	return dataplane.Finished{}
}

// TestFinished: a pod on a TAP port, which sends super-frames without checksums, talks TCP to
// one behind a device that takes neither. It gets segments, and finds no checksum wrong.
func TestFinished(t *testing.T) {
	r, a, b := offloadRig(t, nil)
	sendTCP(t, a, b, "10.9.0.2", "fd09::2")
	if f := r.finishedFor("pb"); f.TCP == 0 || f.Sums <= f.Segments {
		t.Errorf("finished for the device: %+v", f)
	}
	if f := r.finishedFor("tap0"); f.Merged != 0 {
		t.Errorf("merged, and nobody has asked for it: %+v", f)
	}
	r.balanced()
}

// TestMerged: segments of a pod behind a device are merged for one on a TAP port whose options ask
// for it, which finds no checksum wrong.
func TestMerged(t *testing.T) {
	r, a, b := offloadRig(t, map[string]string{dataplane.OptionGRO: "true"})
	before := a.Counter("Ip", "InReceives")
	sendTCP(t, b, a, "10.9.0.1", "fd09::1")
	f := r.finishedFor("tap0")
	if f.Merged == 0 || f.Joined < f.Merged {
		t.Errorf("merged for the pod: %+v", f)
	}
	t.Logf("%+v; the pod has received %d packets by IPv4 for 8 MB", f, a.Counter("Ip", "InReceives")-before)
	r.balanced()
}
