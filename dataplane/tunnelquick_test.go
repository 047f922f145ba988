package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// slowly gives a node frames one by one, for which it knows no quick way.
func (nd *node) slowly(port string, frames [][]byte) {
	w := nd.s.workers[0]
	for _, f := range frames {
		w.alike = likenesses{}
		w.endDecisions()
		for _, p := range w.order {
			w.undirect(p)
		}
		nd.devs[port].in = [][]byte{bytes.Clone(f)}
		nd.turn()
	}
}

// quickly gives a node frames all at once.
func (nd *node) quickly(port string, frames [][]byte) {
	for _, f := range frames {
		nd.devs[port].in = append(nd.devs[port].in, bytes.Clone(f))
	}
	nd.turn()
}

// took returns what a node has sent by each port, and forgets it.
func (nd *node) took() map[string][][]byte {
	out := map[string][][]byte{}
	for name, d := range nd.devs {
		if len(d.out) > 0 {
			out[name], d.out = d.out, nil
		}
	}
	return out
}

// wireAll has rules lead all frames of pod to tun and back.
func (nd *node) wireAll() {
	nd.t.Helper()
	if err := nd.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		nd.t.Fatal(err)
	}
	x := nd.s.Tables().Begin()
	for i, way := range [][2]string{{"pod", "tun"}, {"tun", "pod"}} {
		in, out := nd.s.ports[way[0]].number, nd.s.ports[way[1]].number
		r := flowtable.Rule{
			ID: flowtable.RuleID(i + 1), Datapath: flowtable.DatapathOf("br0"), Priority: 1, Actions: []flowtable.Action{{Code: flowtable.ActOutput, Arg: out}},
			Match: []flowtable.Masked{{Word: flowtable.WordIn, Value: uint64(in) << 32, Mask: 0xffffffff << 32}},
		}
		if err := x.Add(&r); err != nil {
			nd.t.Fatal(err)
		}
	}
	if _, err := x.Commit(false); err != nil {
		nd.t.Fatal(err)
	}
}

// spoil changes some bytes of some frames, also such that the IPv4 header stays right.
func spoil(r *rand.Rand, f []byte) []byte {
	f = bytes.Clone(f)
	switch r.IntN(6) {
	case 0:
		f[r.IntN(min(len(f), 60))] ^= 1 << r.IntN(8)
	case 1:
		f[14+r.IntN(20)] ^= 1 << r.IntN(8)
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], ^packet.Sum16(f[14:34]))
	case 2:
		f = f[:len(f)-r.IntN(40)]
	case 3:
		f = append(f, make([]byte, r.IntN(30))...)
	}
	return f
}

// TestTunnelQuick: the quick way does with frames what the slow way does with each of them, on both sides of a
// tunnel, whatever arrives, and counts the same.
func TestTunnelQuick(t *testing.T) {
	for _, kind := range []string{TypeGeneve, TypeVXLAN} {
		for _, direct := range []bool{false, true} {
			for _, rules := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/direct=%v/rules=%v", kind, direct, rules), func(t *testing.T) { quickAndSlow(t, kind, direct, rules) })
			}
		}
	}
}

func quickAndSlow(t *testing.T, kind string, direct, rules bool) {
	r := rand.New(rand.NewPCG(3, 4))
	var from, to [2]*node // quick and slow
	for i := range 2 {
		from[i], to[i] = newNode(t, 1, direct), newNode(t, 2, direct)
		from[i].mustTunnel("tun", kind, "remote_ip=10.0.0.2 key=5")
		to[i].mustTunnel("tun", kind, "remote_ip=10.0.0.1 key=5")
		for _, nd := range []*node{from[i], to[i]} {
			if rules {
				nd.wireAll()
			}
		}
		to[i].quickly("pod", [][]byte{eth(1, 2, 0, 60)}) // bridges learn where both stations are
		from[i].quickly("wire", to[i].took()["wire"])
		from[i].took()
	}
	for range 30 {
		var frames [][]byte
		for range 1 + r.IntN(packet.BatchMax-1) {
			frames = append(frames, inner(60+r.IntN(2)*r.IntN(9100), byte(r.IntN(4))))
		}
		from[0].quickly("pod", frames)
		from[1].slowly("pod", frames)
		sent := compare(t, from)
		if len(sent["wire"]) == 0 {
			continue
		}
		for i, f := range sent["wire"] {
			sent["wire"][i] = spoil(r, f)
		}
		to[0].quickly("wire", sent["wire"])
		to[1].slowly("wire", sent["wire"])
		compare(t, to)
	}
	for _, nd := range []*node{from[0], to[0]} {
		if st := nd.accounts()["tun"]; st.TxFrames+st.RxFrames < 100 {
			t.Errorf("%+v", st)
		}
	}
}

// compare compares what two nodes have sent, and counted.
func compare(t *testing.T, nodes [2]*node) map[string][][]byte {
	t.Helper()
	quick, slow := nodes[0].took(), nodes[1].took()
	for name := range nodes[0].devs { // those with addresses of their own are decided about first
		slices.SortFunc(quick[name], bytes.Compare)
		slices.SortFunc(slow[name], bytes.Compare)
		same(t, quick[name], slow[name])
	}
	counted, want := nodes[0].accounts(), nodes[1].accounts()
	for name, w := range want {
		c := counted[name]
		c.Number, w.Number = 0, 0
		if c != w {
			t.Fatalf("%s has counted\n%+v, want\n%+v", name, c, w)
		}
	}
	return quick
}
