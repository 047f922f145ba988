package acceptance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
)

// tracedRules are rules in the language for frames of tracedFrame: n at random, over
// three tables.
func tracedRules(rnd *rand.Rand, n int) string {
	matches := []string{
		"ip4.src == 10.0.0.%d", "ip4.dst == 10.0.1.%d", "ip4 && udp.dst == 100%d", "ip4 && udp.src == 100%d && ip4.dst == 10.0.1.2",
		"ip4.src == 10.0.0.0/30 && ip4.dst == 10.0.1.%d", "vlan.vid == %d", "ip4 && udp.dst != 100%d", "ip4 && reg0 == %d", "eth.src == 02:00:00:00:00:0%d",
	}
	actions := []string{
		"ip.ttl = 6%d; next;", "reg0 = %d; next;", "outport = \"p1\"; output; udp.dst = 200%d; next;", "ip4.src = 10.9.9.%d; outport = \"p2\"; output;",
		"outport = \"p1\"; output; # %d", "drop; # %d", "clone { ip4.dst = 10.8.8.%d; outport = \"p2\"; output; }; next;", "eth.dst = 02:00:00:00:01:0%d; next;", "ip.ttl--; reg1 = %d; next;",
		"vlan.vid = 1%d; next;", "next; # %d",
	}
	var b strings.Builder
	for range n {
		match := fmt.Sprintf(matches[rnd.IntN(len(matches))], rnd.IntN(4))
		action, _, _ := strings.Cut(fmt.Sprintf(actions[rnd.IntN(len(actions))], rnd.IntN(4)), " #")
		table := rnd.IntN(3)
		if table == 2 {
			action = strings.ReplaceAll(action, "next;", "outport = \"p1\"; output;")
		}
		fmt.Fprintf(&b, "table=%d priority=%d match='%s' actions='%s'\n", table, 10+rnd.IntN(90), match, action)
	}
	b.WriteString("table=0 priority=1000 match='eth.dst == ff:ff:ff:ff:ff:ff' actions='outport = \"p1\"; output; outport = \"p2\"; output;'\n")
	return b.String()
}

// tracedFrame is a frame that some of tracedRules are for.
func tracedFrame(t *testing.T, rnd *rand.Rand) []byte {
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(rnd.IntN(4))}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 1, 0}, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: []uint8{64, 64, 2, 1}[rnd.IntN(4)], Protocol: layers.IPProtocolUDP,
		SrcIP: net.IPv4(10, 0, 0, byte(rnd.IntN(4))), DstIP: net.IPv4(10, 0, 1, byte(rnd.IntN(4)))}
	udp := &layers.UDP{SrcPort: layers.UDPPort(1000 + rnd.IntN(4)), DstPort: layers.UDPPort(1000 + rnd.IntN(4))}
	check(t, udp.SetNetworkLayerForChecksum(ip))
	stack := []gopacket.SerializableLayer{eth}
	if rnd.IntN(3) == 0 {
		eth.EthernetType = layers.EthernetTypeDot1Q
		stack = append(stack, &layers.Dot1Q{VLANIdentifier: uint16(rnd.IntN(4)), Type: layers.EthernetTypeIPv4})
	}
	stack = append(stack, ip, udp, gopacket.Payload(make([]byte, 18+rnd.IntN(200))))
	b := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...))
	return bytes.Clone(b.Bytes())
}

// A wire is a guest that sends and receives frames one by one.
type wire struct {
	t    *testing.T
	port *frontend.Port
}

// send sends a frame.
func (w *wire) send(f []byte) {
	pair := w.port.Pairs()[0]
	eventually(w.t, func() bool { return pair.Tx.Room(1) > 0 }, "room in the ring")
	b := pair.Tx.Buffer(0)
	copy(pair.Tx.Frame(b), f)
	pair.Tx.SetLen(b, len(f))
	pair.Tx.Send(1)
	if pair.Tx.ShouldKick() {
		check(w.t, sys.Signal(pair.TxRing.Kick))
	}
}

// until returns all frames that come up to last, without that.
func (w *wire) until(last []byte) (frames [][]byte) {
	pair := w.port.Pairs()[0]
	eventually(w.t, func() bool {
		for {
			f, ok := pair.Rx.Next()
			if !ok {
				pair.Rx.Release()
				return false
			}
			if bytes.Equal(f, last) {
				pair.Rx.Release()
				return true
			}
			frames = append(frames, bytes.Clone(f))
		}
	}, "the last frame; %d came before", len(frames))
	return frames
}

// TestTraceOnTheWire sends random frames through random rules, which an ordinary
// switch has from its database, and finds to come out what traces have said before.
func TestTraceOnTheWire(t *testing.T) {
	need(t)
	s := runSwitch(t, "--poll", "busy")
	wires := map[string]*wire{}
	for _, name := range []string{"p0", "p1", "p2"} {
		s.add(name, listens, 0)
		g := openGuest(t, frontend.Config{Path: s.socket(name, listens), RxBuffer: 2048, TxFrame: 2048, RingSize: 1024}) // all outputs of a round, for they are read when all is sent
		wires[name] = &wire{t, g}
		check(t, g.Wait(t.Context()))
		s.awaitLink(name, api.Link_LINK_UP)
	}
	s.cli("bridge", "set", "br0", "--pipeline", "flows")
	outputs := 0
	for seed := range uint64(4) {
		outputs += s.traceAndSend(wires, seed)
	}
	if outputs < 4*tracedFrames/4 {
		t.Errorf("of %d frames came %d outputs: the test does not test much", 4*tracedFrames, outputs)
	}
}

// tracedFrames is how many frames are sent through one set of rules.
const tracedFrames = 300

// traceAndSend puts rules in force, has frames traced, sends them, and compares. It
// returns how many outputs there were.
func (s *switchRun) traceAndSend(wires map[string]*wire, seed uint64) (outputs int) {
	s.t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	file := filepath.Join(s.t.TempDir(), "rules")
	check(s.t, os.WriteFile(file, []byte(tracedRules(rnd, 60)), 0o600))
	s.cli("flow", "replace", "br0", "-f", file)
	want := map[string][][]byte{}
	sent := make([][]byte, tracedFrames)
	for i := range sent {
		sent[i] = tracedFrame(s.t, rnd)
		for port, frames := range s.trace("p0", sent[i]) {
			want[port] = append(want[port], frames...)
			outputs += len(frames)
		}
	}
	for i, f := range sent {
		wires["p0"].send(f)
		if i%100 == 99 {
			time.Sleep(time.Millisecond) // later frames find programs in the cache
		}
	}
	last := binary.BigEndian.AppendUint64(append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 9, 0x88, 0xb5), seed)
	last = append(last, make([]byte, 60-len(last))...)
	wires["p0"].send(last)
	for _, name := range []string{"p1", "p2"} {
		if got := wires[name].until(last); !slices.EqualFunc(got, want[name], bytes.Equal) {
			s.t.Errorf("seed %d: %s got %d frames, traces said %d: %s", seed, name, len(got), len(want[name]), firstDifference(got, want[name]))
		}
	}
	return outputs
}

// trace returns the frames that leave, by port, if frame comes in by a port.
func (s *switchRun) trace(port string, frame []byte) map[string][][]byte {
	s.t.Helper()
	r, err := s.api.Flows.Trace(s.t.Context(), &api.TraceRequest{Port: port, Frame: frame})
	check(s.t, err)
	out := map[string][][]byte{}
	for _, o := range r.GetOutputs() {
		if o.GetDropReason() == "" {
			out[o.GetPort()] = append(out[o.GetPort()], o.GetFrame())
		}
	}
	return out
}

// firstDifference shows where two lists of frames part.
func firstDifference(got, want [][]byte) string {
	for i := range min(len(got), len(want)) {
		if !bytes.Equal(got[i], want[i]) {
			return fmt.Sprintf("frame %d is\n%x, want\n%x", i, got[i], want[i])
		}
	}
	return "one begins as the other"
}
