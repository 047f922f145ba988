// Package pktgen makes traffic for a switch's ports, and judges what comes
// back.
//
// A generator is the guest's side of one or several vhost-user ports
// ([millrace/vhost/frontend]), or has ends in the kernel ([End]): a courier carries
// frames between them and rings of the same kind, so that all kinds of ports have one
// generator and one checker.
// One thread sends and receives for all of them, or one sends and another
// receives. Traffic goes in streams: from one port to one or more others.
//
// # Modes
//
// In mode [Verify] each frame carries flow, sequence number and time, each frame
// that comes is compared with what it must be, and counts are exact: sent =
// received + lost + corrupted, with duplicates and reordered frames apart.
//
// In mode [Fast] frames are written once, before the start. Sending and
// receiving then touch the rings only, about 2 ns a frame for both, so that a
// switch is measured and not the generator. Frames are counted; with
// LatencyEvery some carry the time.
//
// Each figure is worth as much as the generator's own limit is high: [Ceiling]
// measures it with the same settings, through a forwarder that does nothing but
// copy.
//
// # Phases
//
// Ports announce their addresses, so that a learning switch knows them. Then
// comes warm-up, whose frames are awaited and forgotten; then the measured
// time, at whose end rates are taken; then a wait for the last frames, after
// which what is missing is lost.
package pktgen

import (
	"errors"
	"fmt"
	"net"
	"time"

	"millrace/dataplane/packet"
)

// Mode says what is done to each frame.
type Mode string

// The modes.
const (
	Verify Mode = "verify"
	Fast   Mode = "fast"
)

// Direction says which port sends to which.
type Direction string

// The directions, for ports 0 and 1, 2 and 3, and so on.
const (
	Uni       Direction = "uni"       // even ports send to odd ones
	Bidi      Direction = "bidi"      // both ways
	Broadcast Direction = "broadcast" // port 0 sends to all others, by the broadcast address
)

// ErrConfig is the error of settings that do not go together.
var ErrConfig = errors.New("bad pktgen configuration")

// A Share is a frame size and its part in the mix.
type Share struct {
	Size   int `json:"size"` // bytes of a frame without checksum, with the sender's tag
	Weight int `json:"weight"`
}

// IMIX is the mix of sizes that is used most: seven small frames, four middle
// ones and a long one.
func IMIX() []Share { return []Share{{60, 7}, {590, 4}, {1514, 1}} }

// A Port is one port of the generator.
type Port struct {
	Name   string           // in results; default port0, port1, ...
	Path   string           // socket; empty on all ports: a forwarder in this process is the switch
	Listen bool             // the switch connects to us
	End    End              // instead of a socket; Queues is 1 then
	Queues int              // queue pairs; default 1
	MAC    net.HardwareAddr // default 02:00:00:00:00:01 and so on
	VLAN   uint16           // tag on frames sent, and expected on frames that come; 0: none

	Traffic *Traffic // what it sends; default Config's Flows, Zipf and Rate
	Silent  bool     // it sends nothing, whatever the direction
}

// A Config says what to send. Fields left zero get the defaults named at each.
//
// Spare keeps the generator from making the switch drop. All frames that were
// sent and not taken can be delivered between two looks at the receive ring,
// and a batch more that is sent in between: as long as these are fewer than
// the receive ring has buffers, one thread that sends from one port to another
// never finds frames lost for want of buffers, however late it comes.
type Config struct {
	Ports     []Port
	Direction Direction // default Uni
	Mode      Mode      // default Verify
	Sizes     []Share   // default 60 bytes
	Flows     int       // per stream, told apart by UDP source port and IP source address; default 1
	Zipf      float64   // over 1: the k-th most popular flow has a share like k^-Zipf; 0: flows go round
	Pcap      string    // file with frames to send instead; Sizes and Flows do not count then

	Rate     float64       // frames a second per stream; 0: as many as the switch takes
	Count    uint64        // frames per stream; 0: until Duration is over
	Duration time.Duration // default 10 s, if there is no Count
	Warmup   time.Duration // default none
	Settle   time.Duration // wait for the last frames: ends so long after the last one came; default 200 ms

	LatencyEvery int    // take the time of one frame in so many; default 1 in Verify, none in Fast
	RingSize     uint16 // descriptors; default 256
	Huge         bool   // memory of reserved huge pages, as DPDK guests have
	Batch        int    // frames sent in one turn; default 64
	Spare        int    // transmit descriptors left unused, see below; default 2 batches, -1: none
	CPUs         []int  // of the generator: one for all, or one to send and one to receive; default the last allowed
	Yield        bool   // the generator's threads give way to every other: their CPU is not theirs alone
	PeerCPU      int    // of the forwarder in this process; default the first allowed; -1: not pinned

	Connect    time.Duration  // how long to wait for the switch; default as long as the context
	CeilingFor time.Duration  // measure the generator's ceiling afterwards, for so long; 0: not
	Progress   func(Progress) // called each second
	Watch      *Watch         // told of what comes; as many ports as Ports
}

// A Progress is what happened up to now, in the measured time.
type Progress struct {
	Elapsed        time.Duration
	Sent, Received uint64
	TxPPS, RxPPS   float64 // since the last one
}

const (
	portsMax = 64
	flowsMax = 1 << 24
	queueMax = 64
)

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}

// withDefaults fills in what was left out, in a copy.
func (c Config) withDefaults() Config {
	c.Ports = append([]Port(nil), c.Ports...)
	for i := range c.Ports {
		c.Ports[i].fill(i)
	}
	if c.Direction == "" {
		c.Direction = Uni
	}
	if c.Mode == "" {
		c.Mode = Verify
	}
	if len(c.Sizes) == 0 {
		c.Sizes = []Share{{60, 1}}
	}
	if c.Duration == 0 && c.Count == 0 {
		c.Duration = 10 * time.Second
	}
	if c.Settle == 0 {
		c.Settle = 200 * time.Millisecond
	}
	if c.LatencyEvery == 0 && c.Mode == Verify {
		c.LatencyEvery = 1
	}
	c.Flows = max(c.Flows, 1)
	if c.RingSize == 0 {
		c.RingSize = 256
	}
	if c.Batch == 0 {
		c.Batch = 64
	}
	if c.Spare == 0 {
		c.Spare = min(2*c.Batch, int(c.RingSize)/2)
	}
	c.Spare = max(c.Spare, 0)
	return c
}

func (p *Port) fill(i int) {
	if p.Name == "" {
		p.Name = fmt.Sprintf("port%d", i)
	}
	if p.MAC == nil {
		p.MAC = net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}
	}
	p.Queues = max(p.Queues, 1)
}

// check refuses what cannot be done. It sees defaults filled in.
func (c *Config) check() error {
	switch n := len(c.Ports); {
	case n < 2 || n > portsMax:
		return bad("%d ports, want 2 to %d", n, portsMax)
	case c.Direction != Uni && c.Direction != Bidi && c.Direction != Broadcast:
		return bad("direction %q, want uni, bidi or broadcast", c.Direction)
	case c.Direction != Broadcast && n%2 != 0:
		return bad("%d ports cannot be paired", n)
	case c.Mode != Verify && c.Mode != Fast:
		return bad("mode %q, want verify or fast", c.Mode)
	case c.Batch < 1 || c.Batch+c.Spare > int(c.RingSize):
		return bad("batches of %d and %d spare descriptors in a ring of %d", c.Batch, c.Spare, c.RingSize)
	case c.Rate < 0 || c.LatencyEvery < 0 || c.Duration < 0 || c.Warmup < 0 || c.Settle < 0 || c.CeilingFor < 0:
		return bad("negative rate or time")
	case c.Watch != nil && len(c.Watch.ports) != n:
		return bad("a watch over %d ports of %d", len(c.Watch.ports), n)
	case len(c.CPUs) > 2:
		return bad("%d CPUs, want one, or one to send and one to receive", len(c.CPUs))
	}
	if err := c.checkEnds(); err != nil {
		return err
	}
	for i, p := range c.Ports {
		if len(p.MAC) != 6 || p.MAC[0]&1 != 0 || p.VLAN > 4094 || p.Queues > queueMax || p.outside() != c.Ports[0].outside() {
			return bad("port %d (%s): MAC address %v, VLAN %d, %d queues, socket %q", i, p.Name, p.MAC, p.VLAN, p.Queues, p.Path)
		}
		t := c.traffic(i)
		if err := t.check(); err != nil {
			return fmt.Errorf("port %d (%s): %w", i, p.Name, err)
		}
		if t.Wrap != nil && (c.Mode != Fast || c.Pcap != "" || c.LatencyEvery > 0) {
			return bad("port %d (%s): frames in others, want mode fast without latency", i, p.Name)
		}
	}
	if c.Pcap != "" {
		return nil
	}
	return c.checkSizes()
}

// outside reports whether the port has a switch at its other end, and not a forwarder
// of ours.
func (p *Port) outside() bool { return p.Path != "" || p.End.Kind != "" }

// checkEnds refuses what ends in the kernel cannot do.
func (c *Config) checkEnds() error {
	most := 0
	for _, s := range c.Sizes {
		most = max(most, s.Size)
	}
	for i, p := range c.Ports {
		e := p.End
		switch {
		case e.Kind == "":
			continue
		case e.Kind != EndAFXDP && e.Kind != EndPacket && e.Kind != EndTAP || e.Device == "":
			return bad("port %d: end %q, want afxdp, packet or tap, and a device", i, e)
		case p.Queues != 1 || p.Path != "":
			return bad("port %d (%s): an end has one queue and no socket", i, e)
		case len(c.CPUs) > 1:
			return bad("port %d (%s): one CPU sends and receives where there are ends", i, e)
		case e.Kind == EndAFXDP && c.Pcap == "" && most > afxdpMost-tagGrowth:
			return bad("port %d (%s): frames of %d bytes, at most %d", i, e, most, afxdpMost-tagGrowth)
		case e.Kind == EndPacket && p.VLAN != 0:
			return bad("port %d (%s): a packet socket gets no VLAN tags: use afxdp", i, e)
		}
	}
	return nil
}

// tagGrowth is what a frame may grow by on its way, in bytes: a tag, and the mark of
// a timed frame.
const tagGrowth = 4 + 2

func (c *Config) checkSizes() error {
	for _, s := range c.Sizes {
		least := headerMax + tagLen - 4
		for _, p := range c.Ports {
			if p.VLAN != 0 {
				least = headerMax + tagLen
			}
		}
		switch {
		case s.Size < least || s.Size > packet.FrameMax || s.Weight < 1 || s.Weight > 1000:
			return bad("size %d with weight %d, want %d to %d bytes and weight 1 to 1000", s.Size, s.Weight, least, packet.FrameMax)
		case c.Mode == Fast && c.LatencyEvery > 0 && s.Size%2 != 0:
			return bad("size %d: fast mode marks timed frames by an odd length, so sizes must be even", s.Size)
		}
	}
	return nil
}
