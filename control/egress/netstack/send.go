package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// What is read of the virtio-net header (virtio 5.1.6).
const (
	hdrFlags = 0
	hdrGSO   = 1

	flagNeedsSum = 1 // the checksum is to be finished
	flagSumValid = 2 // the checksum was looked at
)

// How long a frame waits for room. A switch that has not taken one of 256 frames by
// then does not work; TCP sends again.
const (
	fullMost = 10 * time.Millisecond
	fullStep = 20 * time.Microsecond
)

// WritePackets implements stack.LinkEndpoint. Frames that cannot be sent are
// counted and dropped, as on any network. While the switch is away frames wait in
// the ring as long as there is room: the next one goes on where it was.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	l.sending.Lock()
	defer l.sending.Unlock()
	n := list.Len()
	if l.closed || l.features.Load() == nil {
		l.Down.Add(uint64(n))
		return n, nil
	}
	for at := 0; at < n; {
		room := l.room(n - at)
		if room == 0 {
			l.Full.Add(uint64(n - at))
			break
		}
		k := min(room, n-at)
		for i, p := range list.AsSlice()[at : at+k] {
			l.put(l.pair.Tx.Buffer(i), p)
		}
		l.pair.Tx.Send(k)
		if l.pair.Tx.ShouldKick() {
			_ = sys.Signal(l.pair.TxRing.Kick) // the eventfd is ours and open
		}
		at += k
	}
	return n, nil
}

// room returns how many frames can be sent. It waits a while for one.
func (l *link) room(want int) int {
	n := l.pair.Tx.Room(want)
	for waited := time.Duration(0); n == 0 && waited < fullMost && l.pair.Tx.Err() == nil && l.front.Up(); waited += fullStep {
		time.Sleep(fullStep)
		n = l.pair.Tx.Room(want)
	}
	return n
}

// put writes a frame and its virtio-net header into a buffer of the ring.
func (l *link) put(buffer int, p *stack.PacketBuffer) {
	describe(l.pair.Tx.Header(buffer), p)
	frame, n := l.pair.Tx.Frame(buffer), 0
	for _, s := range p.AsSlices() {
		n += copy(frame[n:], s)
	}
	n = max(n, header.EthernetMinimumSize)
	l.pair.Tx.SetLen(buffer, n)
}

// describe says in h what is left to do for a frame: checksum, segments.
func describe(h []byte, p *stack.PacketBuffer) {
	clear(h)
	var n packet.NetHeader
	if g := &p.GSOOptions; g.Type != stack.GSONone && g.NeedsCsum {
		n.Start, n.Field = header.EthernetMinimumSize+g.L3HdrLen, g.CsumOffset
		if p.Data().Size() > int(g.MSS) {
			n.GSO, n.Body, n.Size = packet.GSOTCP4, uint16(p.HeaderSize()), g.MSS
		}
		if n.GSO != 0 && g.Type == stack.GSOTCPv6 {
			n.GSO = packet.GSOTCP6
		}
	}
	n.Put(h)
}
