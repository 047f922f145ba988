package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
)

// talkers is how many connections go through the firewall.
const talkers = 16

// firewall are the flows of bridge br0: what comes in by a may leave by b, what comes
// in by b must belong to it.
func firewall(u *unit) {
	u.t.Helper()
	s := &switchRun{t: u.t, dir: u.dir}
	s.cli("bridge", "add", "br0", "--pipeline", "flows")
	for _, name := range []string{"a", "b"} {
		s.cli("port", "add", "br0", name, "--type", listens)
	}
	for _, row := range [][]string{
		{"ip", "ct_next;"},
		{`ct.new && inport == "a"`, `ct_commit; outport = "b"; output;`, "--table", "1"},
		{`ct.est && inport == "a"`, `outport = "b"; output;`, "--table", "1"},
		{`ct.est && inport == "b"`, `outport = "a"; output;`, "--table", "1"},
	} {
		s.cli(append([]string{"flow", "add", "br0"}, row...)...)
	}
}

// datagram is a frame from a client's port to the server's, or back.
func datagram(t *testing.T, client uint16, back bool) []byte {
	t.Helper()
	src, dst := net.IP{10, 0, 0, 1}, net.IP{10, 0, 0, 2}
	udp := &layers.UDP{SrcPort: layers.UDPPort(client), DstPort: 53}
	if back {
		src, dst, udp.SrcPort, udp.DstPort = dst, src, udp.DstPort, udp.SrcPort
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src, DstIP: dst}
	check(t, udp.SetNetworkLayerForChecksum(ip))
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, src[3]}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, dst[3]}, EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload("through the firewall")))
	return slices.Clone(b.Bytes())
}

// A talk sends datagrams through two guests' ports, each when the one before has
// arrived.
type talk struct {
	a, b   *frontend.Pair
	there  [talkers][]byte
	back   [talkers][]byte
	rounds atomic.Uint64 // over all talkers, both ways
}

func newTalk(t *testing.T, u *unit) *talk {
	t.Helper()
	var pairs []*frontend.Pair
	for _, name := range []string{"a", "b"} {
		g := openGuest(t, frontend.Config{Path: u.path(name), RxBuffer: 2048, TxFrame: 2048})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		check(t, g.Wait(ctx))
		pairs = append(pairs, g.Pairs()[0])
	}
	k := &talk{a: pairs[0], b: pairs[1]}
	for i := range talkers {
		k.there[i], k.back[i] = datagram(t, uint16(1000+i), false), datagram(t, uint16(1000+i), true)
	}
	return k
}

// round goes over all talkers once.
func (k *talk) round() error {
	for i := range talkers {
		if err := errors.Join(carry(k.a, k.b, k.there[i]), carry(k.b, k.a, k.back[i])); err != nil {
			return fmt.Errorf("talker %d in round %d: %w", i, k.rounds.Load(), err)
		}
	}
	k.rounds.Add(1)
	return nil
}

// carry sends a frame from one guest, and takes it at the other.
func carry(from, to *frontend.Pair, frame []byte) error {
	if from.Tx.Room(1) < 1 {
		return fmt.Errorf("no room to send: %w", from.Tx.Err())
	}
	b := from.Tx.Buffer(0)
	copy(from.Tx.Frame(b), frame)
	from.Tx.SetLen(b, len(frame))
	from.Tx.Send(1)
	if from.Tx.ShouldKick() {
		if err := sys.Signal(from.TxRing.Kick); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		if got, ok := to.Rx.Next(); ok {
			same := bytes.Equal(got, frame)
			to.Rx.Release()
			if !same {
				return errors.New("another frame arrived")
			}
			return nil
		}
		if err := to.Rx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("no frame in %v", patience)
}

// goesOn waits for some rounds.
func (k *talk) goesOn(t *testing.T) {
	t.Helper()
	before := k.rounds.Load()
	eventually(t, func() bool { return k.rounds.Load() >= before+20 }, "datagrams go on")
}

// connectionsOf are the connections of br0 that the dataplane lists, by the client's port.
func connectionsOf(t *testing.T, c *api.Client) map[uint32]*api.Connection {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := c.Connections.ListConnections(ctx, &api.ListConnectionsRequest{Filter: &api.ConnectionFilter{Zone: &api.ZoneSelector{Bridge: "br0"}}})
	check(t, err)
	all := map[uint32]*api.Connection{}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		check(t, err)
		for _, row := range m.GetConnections() {
			all[row.GetOriginal().GetSport()] = row
		}
	}
}

// TestConnectionsOutliveControl kills control under traffic: connections that are
// established go on, all that they have counted is listed, and the next control leaves
// them as they are. A new connection begins while there is none.
func TestConnectionsOutliveControl(t *testing.T) {
	need(t, "ovs-vsctl")
	u := newUnit(t)
	worker, _ := cpus(t)
	u.start("database", "db", "serve")
	u.start("dataplane", "dataplane", "--cpus", strconv.Itoa(worker))
	u.start("control", "control")
	firewall(u)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := api.Dial(ctx, u.dir, api.Patience(patience))
	check(t, err)
	defer c.Close()
	k := newTalk(t, u)
	check(t, k.round())
	before := connectionsOf(t, c)
	version := tableVersion(t, c)

	var talking sync.WaitGroup
	stop, broken := make(chan struct{}), make(chan error, 1)
	talking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := k.round(); err != nil {
				broken <- err
				return
			}
		}
	})
	k.goesOn(t)
	u.kill("control")
	k.goesOn(t)
	if got := len(connectionsOf(t, c)); got != talkers {
		t.Errorf("%d connections without control, want %d", got, talkers)
	}
	u.start("control", "control")
	if n := u.told().Counters.Changes; n != 0 {
		t.Errorf("the next control made %d changes", n)
	}
	k.goesOn(t)
	close(stop)
	talking.Wait()
	select {
	case err := <-broken:
		t.Fatal(err)
	default:
	}
	if v := tableVersion(t, c); v != version {
		t.Errorf("flow table has version %d, had %d", v, version)
	}
	checkCounted(t, before, connectionsOf(t, c), k.rounds.Load())
	u.kill("control")
	stranger := datagram(t, 2000, false)
	check(t, carry(k.a, k.b, stranger))
	if row := connectionsOf(t, c)[2000]; row.GetPackets() != 1 || row.GetBytes() != uint64(len(stranger)) {
		t.Errorf("a connection that began without control: %v", row)
	}
	u.start("control", "control") // which takes away what one that was killed has left
}

// tableVersion is how many transactions the flow table has had.
func tableVersion(t *testing.T, c *api.Client) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := c.Flows.GetFlowTable(ctx, &api.GetFlowTableRequest{})
	check(t, err)
	return r.GetVersion()
}

// checkCounted: each talker's connection is the one that it was, and has counted
// every datagram.
func checkCounted(t *testing.T, before, now map[uint32]*api.Connection, rounds uint64) {
	t.Helper()
	if len(before) != talkers || len(now) != talkers {
		t.Fatalf("%d connections, before %d, want %d", len(now), len(before), talkers)
	}
	for port, row := range now {
		if row.GetId() != before[port].GetId() || !row.GetSeenReply() || row.GetPackets() != rounds || row.GetReplyPackets() != rounds {
			t.Errorf("after %d rounds: %v, was %v", rounds, row, before[port])
		}
		if row.GetBridge() != "br0" || row.GetKind() != api.ZoneKind_ZONE_KIND_PLAIN {
			t.Errorf("its zone is %s %v", row.GetBridge(), row.GetKind())
		}
	}
}
