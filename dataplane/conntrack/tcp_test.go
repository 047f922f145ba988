package conntrack

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A segmentOf is a TCP packet of a test: direction and flags.
type segmentOf struct {
	dir   int
	flags uint16
}

// segmentsOf reads packets like ">S <SA >A": direction and flags.
func segmentsOf(s string) (list []segmentOf) {
	for _, f := range strings.Fields(s) {
		seg := segmentOf{}
		if f[0] == '<' {
			seg.dir = 1
		}
		for _, c := range f[1:] {
			seg.flags |= map[rune]uint16{'F': FlagFIN, 'S': FlagSYN, 'R': FlagRST, 'P': FlagPSH, 'A': FlagACK, 'U': FlagURG}[c]
		}
		list = append(list, seg)
	}
	return list
}

// TestTCPSequences takes packets through a connection, which is committed with the
// first, and checks its state after each. "-" is none: it is gone, or the packet
// was not of it.
func TestTCPSequences(t *testing.T) {
	for _, tt := range []struct{ name, packets, want string }{
		{"orderly", ">S <SA >A >PA <A >FA <A <FA >A", "SYN_SENT SYN_RECV ESTABLISHED ESTABLISHED ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT"},
		{"server closes first", ">S <SA >A <FA >A >FA <A", "SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT"},
		{"both close at once", ">S <SA >A >FA <FA >A <A", "SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT LAST_ACK TIME_WAIT TIME_WAIT"},
		{"reset by the client", ">S <SA >A >R", "SYN_SENT SYN_RECV ESTABLISHED CLOSE"},
		{"reset by the server", ">S <SA >A <RA >A", "SYN_SENT SYN_RECV ESTABLISHED CLOSE CLOSE"},
		{"refused", ">S <RA", "SYN_SENT -"},
		{"SYN again", ">S >S <SA <SA >A", "SYN_SENT SYN_SENT SYN_RECV SYN_RECV ESTABLISHED"},
		{"simultaneous open", ">S <S >SA <SA >A", "SYN_SENT SYN_SENT2 SYN_RECV SYN_RECV ESTABLISHED"},
		{"simultaneous open, one answer", ">S <S >SA <A", "SYN_SENT SYN_SENT2 SYN_RECV ESTABLISHED"},
		{"SYN in the middle", ">S <SA >A >S >A", "SYN_SENT SYN_RECV ESTABLISHED ESTABLISHED ESTABLISHED"},
		{"SYN by the server in the middle", ">S <SA >A <S >A", "SYN_SENT SYN_RECV ESTABLISHED ESTABLISHED ESTABLISHED"},
		{"opened again", ">S <SA >A >FA <FA >A >S", "SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT LAST_ACK TIME_WAIT -"},
		{"opened again after a reset", ">S <SA >A >R >S", "SYN_SENT SYN_RECV ESTABLISHED CLOSE -"},
		{"half open: the server acknowledges", ">S <A >R", "SYN_SENT SYN_SENT CLOSE"},
		{"FIN with the last ACK of the handshake", ">S <SA >FA <FA >A", "SYN_SENT SYN_RECV FIN_WAIT LAST_ACK TIME_WAIT"},
		{"picked up", ">A <A >A", "ESTABLISHED ESTABLISHED ESTABLISHED"},
		{"flags that cannot be", ">S <SA >A >SF >0 >FR", "SYN_SENT SYN_RECV ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, w := newTable(t, small(64))
			tcp := tuple4(ProtoTCP, "10.0.0.1", 4000, "10.0.0.2", 80)
			var got []string
			for i, s := range segmentsOf(tt.packets) {
				p := packetOf(tcp, s.flags)
				if s.dir == 1 {
					p = packetOf(tcp.Inverse(), s.flags)
				}
				if i == 0 {
					commit(w, 1, p, Terms{}, start)
				} else {
					track(w, 1, p, start)
				}
				state := "-"
				if c, ok := table.Lookup(1, tcp, start); ok {
					state = c.State
				}
				got = append(got, state)
			}
			if want := strings.Fields(tt.want); !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

// TestStrict checks that connections begin with SYN if they must.
func TestStrict(t *testing.T) {
	o := small(64)
	o.Strict = true
	_, w := newTable(t, o)
	tcp := tuple4(ProtoTCP, "10.0.0.1", 4000, "10.0.0.2", 80)
	if v, r := commit(w, 1, packetOf(tcp, FlagACK), Terms{}, start); v.State != StateTracked|StateInvalid || r != NotValid {
		t.Errorf("ACK: %v, %v", v.State, r)
	}
	if v, r := commit(w, 1, packetOf(tcp, FlagSYN), Terms{}, start); v.State != StateTracked|StateNew || r != Created {
		t.Errorf("SYN: %v, %v", v.State, r)
	}
}

// An end is one end of a simulated TCP connection, which sends what it may.
type end struct {
	tuple    Tuple
	isn      uint32
	next     uint32 // to send
	unacked  uint32 // oldest that the other has not acknowledged
	expected uint32 // next from the other
	scale    int8
	window   uint32 // that the other may use, in bytes
	peer     uint32 // window that the other allows
	scaled   bool
}

// packet makes a packet of the end.
func (e *end) packet(flags uint16, seq, data uint32) Packet {
	p := packetOf(e.tuple, flags)
	p.Seq, p.Ack, p.Data, p.Window = seq, e.expected, data, e.window
	if flags&FlagSYN == 0 && e.scaled {
		p.Window = e.window >> e.scale
	}
	if flags&FlagACK == 0 {
		p.Ack = 0
	}
	return p
}

// handshake takes a SYN, its answer and the last ACK through the table.
func handshake(w *Worker, client, server *end) {
	syn := client.packet(FlagSYN, client.isn, 0)
	syn.Scale, syn.SACKPermitted = client.scale, true
	commit(w, 1, syn, Terms{}, start)
	client.next, server.expected = client.isn+1, client.isn+1
	synack := server.packet(FlagSYN|FlagACK, server.isn, 0)
	synack.Scale, synack.SACKPermitted = server.scale, true
	track(w, 1, synack, start)
	server.next, client.expected = server.isn+1, server.isn+1
	client.scaled = client.scale >= 0 && server.scale >= 0
	server.scaled = client.scaled
	if client.scaled { // a window is told in units
		client.window = client.window >> client.scale << client.scale
		server.window = server.window >> server.scale << server.scale
	}
	client.unacked, server.unacked = client.next, server.next
	client.peer, server.peer = server.window, client.window
	track(w, 1, client.packet(FlagACK, client.next, 0), start)
}

// TestWindow has two ends send what they may over a path that loses, repeats
// and delays packets: none is invalid. What is far outside of the windows is.
func TestWindow(t *testing.T) {
	for run := range 60 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 4))
		o := small(64)
		o.Windows = true
		_, w := newTable(t, o)
		tcp := tuple4(ProtoTCP, "10.0.0.1", 4000, "10.0.0.2", 80)
		scales := []int8{-1, 0, 7, 14}
		ends := [2]*end{
			{tuple: tcp, isn: r.Uint32(), scale: scales[run%4], window: 20000},
			{tuple: tcp.Inverse(), isn: r.Uint32(), scale: scales[run/4%4], window: 60000},
		}
		handshake(w, ends[0], ends[1])
		var late []flight
		for step := range 400 {
			from := ends[r.IntN(2)]
			to := ends[0]
			if from == to {
				to = ends[1]
			}
			p := from.packet(FlagACK, from.next, 0)
			if size := uint32(r.IntN(1400)); from.next+size-from.unacked <= from.peer && r.IntN(3) > 0 {
				p.Data = size
				from.next += size
			}
			switch r.IntN(8) {
			case 0:
				continue // lost before it came here
			case 1:
				from.next = from.unacked // what is not acknowledged is sent anew
			case 2:
				late = append(late, flight{p, from, to}) // and comes twice
			}
			now := []flight{{p, from, to}}
			if len(late) > 1 {
				now, late = append(now, late...), nil
			}
			for _, f := range now {
				if v := track(w, 1, f.p, start); v.State&StateInvalid != 0 {
					t.Fatalf("seed %d, run %d, step %d: %+v is invalid: %+v", seed, run, step, f.p, w.t.records[v.Cell].seq)
				}
				f.arrive()
			}
		}
		for dir, e := range ends {
			for name, p := range map[string]Packet{
				"data beyond the window":        e.packet(FlagACK, e.next+1<<24, 100),
				"RST beyond the window":         e.packet(FlagRST, e.next+1<<24, 0),
				"RST of what was acknowledged":  e.packet(FlagRST, e.isn, 0),
				"acknowledges what was not yet": func() Packet { p := e.packet(FlagACK, e.next, 0); p.Ack += 1 << 20; return p }(),
			} {
				if e.scale == 14 || ends[1-dir].scale == 14 {
					continue // such a window is anything
				}
				if v := track(w, 1, p, start); v.State != StateTracked|StateInvalid || v.Cacheable {
					t.Errorf("seed %d, run %d, direction %d: %s is %v, cacheable %v", seed, run, dir, name, v.State, v.Cacheable)
				}
			}
		}
		for dir, e := range ends {
			before := w.t.records[1].seq
			for name, p := range map[string]Packet{
				"data long past":                e.packet(FlagACK, e.next-1<<24, 100),
				"FIN long past":                 e.packet(FlagACK|FlagFIN, e.next-1<<24, 100),
				"acknowledges what is long ago": func() Packet { p := e.packet(FlagACK, e.next, 0); p.Ack -= 1 << 20; return p }(),
			} {
				if e.scale == 14 || ends[1-dir].scale == 14 {
					continue
				}
				v := track(w, 1, p, start)
				c, _ := w.t.Lookup(1, tcp, start)
				if v.State&StateEstablished == 0 || v.Cacheable || c.State != "ESTABLISHED" || w.t.records[1].seq != before {
					t.Errorf("seed %d, run %d, direction %d: %s is %v, cacheable %v, the connection is %s", seed, run, dir, name, v.State, v.Cacheable, c.State)
				}
			}
		}
		if v := track(w, 1, ends[0].packet(FlagACK, ends[0].next, 0), start); v.State&StateEstablished == 0 || v.Cacheable {
			t.Errorf("run %d: in the window and %v, cacheable %v", run, v.State, v.Cacheable)
		}
	}
}

// TestResets checks which RSTs end a connection when windows are checked: the one that the
// receiver waits for, and what answers a server that has an older connection still.
func TestResets(t *testing.T) {
	o := small(64)
	o.Windows = true
	table, w := newTable(t, o)
	tcp := tuple4(ProtoTCP, "10.0.0.1", 4000, "10.0.0.2", 80)
	a, b := &end{tuple: tcp, isn: 1000, scale: -1, window: 5000}, &end{tuple: tcp.Inverse(), isn: 9000, scale: -1, window: 5000}
	handshake(w, a, b)
	for _, tt := range []struct {
		name, state string
		seq         uint32
		invalid     bool
	}{
		{"behind the window", "ESTABLISHED", a.next + 100_000, true},
		{"acknowledged", "ESTABLISHED", a.next - 1, true},
		{"in the window", "ESTABLISHED", a.next + 100, false},
		{"in the window again", "ESTABLISHED", a.next + 100, false},
		{"waited for", "CLOSE", a.next, false},
	} {
		v := track(w, 1, a.packet(FlagRST, tt.seq, 0), start)
		if c, _ := table.Lookup(1, tcp, start); v.State&StateInvalid != 0 != tt.invalid || c.State != tt.state {
			t.Errorf("%s: %v, the connection is %s, want %s", tt.name, v.State, c.State, tt.state)
		}
	}

	table.Flush(1)
	commit(w, 1, a.packet(FlagSYN, 5000, 0), Terms{}, start)
	old := b.packet(FlagACK, 700, 0)
	old.Ack = 300_000
	track(w, 1, old, start)
	for _, tt := range []struct {
		name string
		seq  uint32
		want State
	}{{"of neither", 400_000, StateTracked | StateInvalid}, {"of the older one", 300_000, StateTracked | StateEstablished}} {
		if v := track(w, 1, a.packet(FlagRST, tt.seq, 0), start); v.State != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, v.State, tt.want)
		}
	}
}

// A flight is a packet on its way.
type flight struct {
	p        Packet
	from, to *end
}

// arrive is what a packet does at the other end.
func (f *flight) arrive() {
	if f.p.Seq == f.to.expected {
		f.to.expected += f.p.Data
	}
	if after(f.p.Ack, f.to.unacked) {
		f.to.unacked = f.p.Ack
		if after(f.to.unacked, f.to.next) {
			f.to.next = f.to.unacked
		}
	}
}

// TestSCTP takes chunks through an association.
func TestSCTP(t *testing.T) {
	const clientTag, serverTag = 11, 22
	sctp := tuple4(ProtoSCTP, "10.0.0.1", 4000, "10.0.0.2", 3868)
	type step struct {
		dir       int
		tag, init uint32
		chunks    []uint8
		want      string // state, or "invalid"
	}
	orderly := []step{
		{0, 0, clientTag, []uint8{chunkInit}, "CLOSED"},
		{1, clientTag, serverTag, []uint8{chunkInitAck}, "COOKIE_WAIT"},
		{0, serverTag, 0, []uint8{chunkCookieEcho, 0}, "COOKIE_ECHOED"},
		{1, clientTag, 0, []uint8{chunkCookieAck, 3}, "ESTABLISHED"},
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"orderly", append(orderly[:4:4],
			step{0, serverTag, 0, []uint8{0}, "ESTABLISHED"},
			step{1, clientTag, 0, []uint8{3, 0}, "ESTABLISHED"},
			step{0, serverTag, 0, []uint8{chunkShutdown}, "SHUTDOWN_SENT"},
			step{1, clientTag, 0, []uint8{chunkShutdownAck}, "SHUTDOWN_ACK_SENT"},
			step{0, serverTag, 0, []uint8{chunkShutdownComplete}, "CLOSED"})},
		{"aborted", append(orderly[:4:4], step{1, clientTag, 0, []uint8{chunkAbort}, "CLOSED"})},
		{"wrong tag", append(orderly[:4:4], step{0, 99, 0, []uint8{0}, "invalid"}, step{1, 99, 0, []uint8{chunkAbort}, "invalid"})},
		{"who does not know the tag aborts", append(orderly[:4:4],
			step{1, 99, 0, []uint8{chunkShutdownAck, chunkAbort}, "invalid"},
			step{1, clientTag, 0, []uint8{0}, "ESTABLISHED"})},
		{"who does not know the tag gives another", append(orderly[:4:4],
			step{0, 99, 0, []uint8{chunkShutdownAck, chunkHeartbeat}, "invalid"},
			step{0, 99, 0, []uint8{chunkShutdownAck}, "ESTABLISHED"},
			step{0, serverTag, 0, []uint8{0}, "ESTABLISHED"})},
		{"abort with a heartbeat behind it", append(orderly[:4:4],
			step{1, clientTag, 0, []uint8{0, chunkHeartbeat, chunkAbort}, "CLOSED"})},
		{"bundled INIT", append(orderly[:1:1], step{1, clientTag, serverTag, []uint8{chunkInitAck, 0}, "invalid"})},
		{"no chunks", append(orderly[:4:4], step{0, serverTag, 0, nil, "invalid"})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, w := newTable(t, small(64))
			for i, s := range tt.steps {
				p := packetOf(sctp, 0)
				if s.dir == 1 {
					p = packetOf(sctp.Inverse(), 0)
				}
				p.Tag, p.InitTag, p.ChunkCount = s.tag, s.init, uint8(len(s.chunks))
				for j, c := range s.chunks {
					p.Chunks[j].Type = c
				}
				v := track(w, 1, p, start)
				if i == 0 {
					w.Commit(1, &p, &Terms{}, start, &v)
				}
				c, _ := table.Lookup(1, sctp, start)
				got := c.State
				if v.State&StateInvalid != 0 {
					got = "invalid"
				}
				if got != s.want || v.Cacheable {
					t.Fatalf("step %d: got %s, want %s; cacheable %v", i, got, s.want, v.Cacheable)
				}
			}
		})
	}
	_, w := newTable(t, small(64))
	for _, c := range []uint8{0, chunkAbort, chunkShutdownComplete, chunkCookieAck} {
		p := packetOf(sctp, 0)
		p.Tag, p.ChunkCount, p.Chunks[0].Type = 5, 1, c
		if v := track(w, 1, p, start); v.State != StateTracked|StateInvalid {
			t.Errorf("chunk %d begins an association: %v", c, v.State)
		}
	}
}
