package dataplane

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// A plainSwitch is the switch that is too simple to be wrong: rules in a list that
// is searched from end to end, frames as what they say, and no memory of anything.
type plainSwitch struct {
	rules   map[flowtable.RuleID]*flowtable.Rule
	sets    map[flowtable.SetID]map[flowtable.Member]bool
	groups  map[flowtable.GroupID][]uint64
	selects map[flowtable.SelectID]*flowtable.Select
	floods  map[uint32][]uint32
	entries map[uint32]uint64            // in port -> datapath
	fdb     map[uint32]map[uint64]uint32 // number -> address -> port
	peers   map[uint32]uint32            // patch ports
	names   map[uint32]string            // of ports that there are
	sorted  map[uint8][]*flowtable.Rule  // of rules, by table, made when needed
	learned int                          // addresses that came or moved
}

// A plainFrame is a frame: what its fields say, and its tags.
type plainFrame struct {
	base  flowtable.Key // of the frame without the tags; its in port is 0
	extra int           // bytes behind what the key describes
	raw   []byte        // all from the Ethernet type on, if parse.Build does not make such frames
	reply []byte        // the frame without the tags, if it may be a reply: base is not looked at then
	tags  []uint32      // type and TCI, the outermost first
	known int           // of them, that rules saw or have pushed
	none  bool          // as rules see, there is none
}

// frameOf reads a frame.
func frameOf(frame []byte) plainFrame {
	f := plainFrame{}
	if parse.IsTag(binary.BigEndian.Uint16(frame[12:])) && len(frame) >= 18 {
		f.tags, f.known = []uint32{binary.BigEndian.Uint32(frame[12:])}, 1
		frame = append(bytes.Clone(frame[:12]), frame[16:]...)
	}
	f.base, _ = parse.Inspect(frame[:min(len(frame), packet.HeadMax)], uint32(len(frame)), 0)
	f.extra = len(frame) - len(parse.Build(f.base))
	if f.extra < 0 || f.base[flowtable.WordIn]>>16&flowtable.TagPresent != 0 || !bytes.Equal(f.bytes()[12+4*len(f.tags):], frame[12:]) {
		if mayBeReply(frame) {
			f.reply = bytes.Clone(frame)
			return f
		}
		f.raw, f.base[flowtable.WordIn] = frame[12:], 0x9999 // nothing behind the addresses can be written
	}
	return f
}

// bytes is the frame as it is sent.
func (f *plainFrame) bytes() []byte {
	body := parse.Build(f.base)
	if f.reply != nil {
		body = f.reply
	} else if f.raw != nil {
		body = append(body[:12], f.raw...)
	} else {
		body = append(body, make([]byte, max(f.extra, 0))...)
	}
	out := bytes.Clone(body[:12])
	for _, t := range f.tags {
		out = binary.BigEndian.AppendUint32(out, t)
	}
	return append(out, body[12:]...)
}

// key is what rules see of the frame.
func (f *plainFrame) key(port uint32) flowtable.Key {
	b := f.bytes()
	k, _ := parse.Inspect(b[:min(len(b), packet.HeadMax)], uint32(len(b)), port)
	return k
}

// writable are the bits of a word that a frame has room for.
func (f *plainFrame) writable(word uint8) uint64 {
	k := &f.base
	proto, frag := uint8(k[flowtable.WordSrc]>>8), k[flowtable.WordL4]>>16&2
	ports := uint64(0)
	if frag == 0 {
		switch proto {
		case 6, 17, 132:
			ports = 0xffffffff << 32
		case 1, 58:
			ports = 0xff<<48 | 0xff<<32
		}
	}
	switch word {
	case flowtable.WordDst:
		return ^uint64(0xffff)
	case flowtable.WordSrc:
		if t := uint16(k[flowtable.WordIn]); t == 0x0800 || t == 0x86dd {
			return ^uint64(0xff00)
		}
		return ^uint64(0xffff)
	}
	switch uint16(k[flowtable.WordIn]) {
	case 0x0800:
		switch word {
		case flowtable.WordIP4:
			return ^uint64(0)
		case flowtable.WordL4:
			return ports | 0xff<<24
		}
	case 0x86dd:
		switch {
		case word == flowtable.WordIP4:
			return 0xfffff
		case word == flowtable.WordL4:
			return ports | 0xff<<24
		case word >= flowtable.WordIP6Src && word <= flowtable.WordIP6DstLow:
			return ^uint64(0)
		}
	case 0x0806:
		switch word {
		case flowtable.WordIP4:
			return ^uint64(0)
		case flowtable.WordL4:
			return 0xffff << 48
		case flowtable.WordSHA, flowtable.WordTHA:
			return 0xffffffffffff
		}
	}
	return 0
}

// write changes the frame as far as it has the bits.
func (f *plainFrame) write(word uint8, mask, value uint64) {
	if word == flowtable.WordIn {
		if m := uint32(mask >> 16 & 0xefff); f.known > 0 && !f.none {
			f.tags = slices.Clone(f.tags)
			f.tags[0] = f.tags[0]&^m | uint32(value>>16)&m
		}
		return
	}
	if f.reply != nil {
		f.reply = rewritten(f.reply, word, mask, value)
		return
	}
	if word < flowtable.KeyWords {
		m := mask & f.writable(word)
		f.base[word] = f.base[word]&^m | value&m
	}
}

// A plainSend is an output that a walk comes to.
type plainSend struct {
	port  uint32
	flood bool
	frame plainFrame
}

// plainWalk takes a frame through the rules.
type plainWalk struct {
	s       *plainSwitch
	length  uint32
	ctx     flowtable.Context
	frame   plainFrame
	came    flowtable.Key // the frame as it came in
	made    bool          // the frame is a reply
	visited int
	depth   int
	ended   bool
	failed  bool
	last    uint32
	sends   []plainSend
}

// walk returns the outputs of a frame that comes in by port, and why there are
// none.
func (s *plainSwitch) walk(port uint32, f plainFrame) ([]plainSend, uint32) {
	if s.sorted == nil {
		s.sorted = map[uint8][]*flowtable.Rule{}
		for _, r := range s.rules {
			s.sorted[r.Table] = append(s.sorted[r.Table], r)
		}
	}
	w := &plainWalk{s: s, frame: f, length: uint32(len(f.bytes())), last: flowtable.DropNoOutput}
	key := f.key(port)
	copy(w.ctx[:], key[:])
	w.came = key
	dp, ok := s.entries[port]
	if !ok {
		return nil, flowtable.DropNoEntry
	}
	w.ctx[flowtable.WordDatapath] = dp
	w.ctx[flowtable.WordPorts] = uint64(port) << 32
	w.table(0)
	if w.failed || len(w.sends) == 0 {
		return nil, w.last
	}
	return w.sends, 0
}

func (w *plainWalk) fail(why uint32) { w.failed, w.ended, w.last = true, true, why }

func (w *plainWalk) table(table uint8) {
	for {
		if w.visited++; w.visited > flowtable.StepsMax {
			w.fail(flowtable.DropSteps)
			return
		}
		r := w.lookup(table)
		if r == nil {
			w.last = flowtable.DropNoRule
			return
		}
		next := w.run(r.Actions)
		if next < 0 || w.ended {
			return
		}
		table = uint8(next)
	}
}

func (w *plainWalk) lookup(table uint8) (best *flowtable.Rule) {
	for _, r := range w.s.sorted[table] {
		here := r.Datapath == w.ctx[flowtable.WordDatapath]
		if r.Group != 0 {
			here = slices.Contains(w.s.groups[r.Group], w.ctx[flowtable.WordDatapath])
		}
		if here && w.matches(r) && (best == nil || r.Priority > best.Priority || r.Priority == best.Priority && r.ID < best.ID) {
			best = r
		}
	}
	return best
}

func (w *plainWalk) matches(r *flowtable.Rule) bool {
	for _, m := range r.Match {
		if w.ctx[m.Word]&m.Mask != m.Value {
			return false
		}
	}
	for _, p := range r.Preds {
		v, in := w.get(p.Field), false
		for m := range w.s.sets[p.Set] {
			in = in || v&m.MaskLow == m.Low
		}
		ok := in
		switch p.Kind {
		case flowtable.NotInSet:
			ok = !in
		case flowtable.InRange:
			ok = v >= p.Low && v <= p.High
		case flowtable.NotEqual:
			ok = v&p.Mask != p.Low
		}
		if !ok {
			return false
		}
	}
	return true
}

func (w *plainWalk) get(f flowtable.Field) uint64 {
	mask, _ := f.Bits()
	return w.ctx[f.Word] & mask >> f.Shift
}

func (w *plainWalk) set(f flowtable.Field, v uint64) {
	mask, _ := f.Bits()
	if f.Word == flowtable.WordIn {
		mask &^= flowtable.TagPresent << 16
	}
	v <<= f.Shift
	w.ctx[f.Word] = w.ctx[f.Word]&^mask | v&mask
	w.frame.write(f.Word, mask, v)
}

func (w *plainWalk) deeper(f func()) {
	if w.depth == flowtable.DepthMax {
		w.fail(flowtable.DropDepth)
		return
	}
	w.depth++
	f()
	w.depth--
}

func (w *plainWalk) copied(f func()) {
	w.deeper(func() {
		ctx, frame, made := w.ctx, w.frame, w.made
		f()
		w.ctx, w.frame, w.made, w.ended = ctx, frame, made, w.failed
	})
}

func (w *plainWalk) list(acts []flowtable.Action) {
	if next := w.run(acts); next >= 0 && !w.ended {
		w.table(uint8(next))
	}
}

// retag notes the TCI that rules see after a push or a pop.
func (w *plainWalk) retag(tci uint64) {
	w.ctx[flowtable.WordIn] = w.ctx[flowtable.WordIn]&^(0xffff<<16) | tci<<16
}

func (w *plainWalk) run(acts []flowtable.Action) int {
	for i, a := range acts {
		if w.ended {
			return -1
		}
		next := -1
		switch a.Code {
		case flowtable.ActNext:
			next = int(a.Table)
		case flowtable.ActSet:
			w.set(a.Dst, a.Value)
		case flowtable.ActMove:
			w.set(a.Dst, w.get(a.Src))
		case flowtable.ActExchange:
			x, y := w.get(a.Src), w.get(a.Dst)
			w.set(a.Dst, x)
			w.set(a.Src, y)
		case flowtable.ActDrop:
			w.last = a.Arg
			return -1
		case flowtable.ActOutput:
			port := a.Arg
			if port == 0 {
				port = uint32(w.get(a.Dst))
			}
			flood := port&flowtable.FloodPort != 0
			if _, ok := w.s.floods[port]; port == 0 || flood && !ok {
				w.last = flowtable.DropNoPort
			} else {
				w.sends = append(w.sends, plainSend{port: port, flood: flood, frame: w.frame})
			}
		case flowtable.ActFlood:
			w.sends = append(w.sends, plainSend{port: a.Arg, flood: true, frame: w.frame})
		case flowtable.ActClone:
			w.copied(func() { w.list(a.Nested) })
		case flowtable.ActReply:
			w.reply(&a)
		case flowtable.ActDatapath:
			w.copied(func() {
				clear(w.ctx[flowtable.KeyWords:])
				w.ctx[flowtable.WordDatapath], w.ctx[flowtable.WordPorts] = a.Value, uint64(a.Arg)<<32
				w.table(a.Table)
			})
		case flowtable.ActPushVLAN:
			w.frame.tags = append([]uint32{a.Arg << 16}, w.frame.tags...)
			w.frame.known++
			w.frame.none = false
			w.retag(flowtable.TagPresent)
		case flowtable.ActPopVLAN:
			if w.frame.known > 0 {
				w.frame.tags, w.frame.known = w.frame.tags[1:], w.frame.known-1
			}
			w.frame.none = true
			w.retag(0)
		case flowtable.ActDecTTL:
			if w.ctx[flowtable.WordSrc]&0xff <= 1 {
				w.ended, w.last = true, flowtable.DropTTL
				return -1
			}
			w.set(flowtable.Field{Word: flowtable.WordSrc, Width: 8}, w.ctx[flowtable.WordSrc]&0xff-1)
		case flowtable.ActSelect:
			next = w.choose(&a)
		case flowtable.ActLarger:
			v := uint64(0)
			if w.length > a.Arg && !w.made {
				v = 1
			}
			w.set(a.Dst, v)
		case flowtable.ActGetFDB:
			w.set(a.Dst, uint64(w.s.fdb[a.Arg][w.get(a.Src)]))
		case flowtable.ActLookupFDB:
			v := uint64(0)
			if port, ok := w.s.fdb[a.Arg][w.get(a.Src)]; ok && uint64(port) == w.get(a.Src2) {
				v = 1
			}
			w.set(a.Dst, v)
		case flowtable.ActPutFDB:
			if address := w.get(a.Src); address>>40&1 == 0 && address<<16 != 0 {
				if port := uint32(w.get(a.Src2)); w.s.fdb[a.Arg][address] != port {
					w.s.fdb[a.Arg][address] = port
					w.s.learned++
				}
			}
		}
		if next < 0 {
			continue
		}
		if i == len(acts)-1 {
			return next
		}
		w.deeper(func() { w.table(uint8(next)) })
	}
	return -1
}

// choose is weighted rendezvous, written out again.
func (w *plainWalk) choose(a *flowtable.Action) int {
	mix := func(h, x uint64) uint64 {
		high, low := bits.Mul64(x^0xbf58476d1ce4e5b9, h^0x94d049bb133111eb)
		return high ^ low ^ x
	}
	s, h := w.s.selects[flowtable.SelectID(a.Arg)], uint64(0x9e3779b97f4a7c15)
	for _, f := range s.Fields {
		h = mix(mix(h, 0), w.get(f))
	}
	best, score := -1, math.Inf(-1)
	for i, b := range s.Buckets {
		u := (float64(mix(mix(h, uint64(b.ID)+1), 0x94d049bb133111eb)>>11) + 0.5) / (1 << 53)
		if d := -float64(b.Weight) / math.Log(u); b.Weight > 0 && d > score {
			best, score = i, d
		}
	}
	switch {
	case best < 0:
		w.last = flowtable.DropNoBucket
		return -1
	case a.Dst.Width == 0:
		w.deeper(func() { w.list(s.Buckets[best].Actions) })
		return -1
	}
	w.set(a.Dst, uint64(s.Buckets[best].ID))
	return int(a.Table)
}

// A plainEvent is what becomes of a copy of a frame: it leaves by a port, or is
// dropped there for a reason.
type plainEvent struct {
	port  uint32
	frame string
	why   packet.Reason
	rx    bool // dropped on the way in
}

// plainRun is one frame's way through the switch with all its copies.
type plainRun struct {
	s      *plainSwitch
	out    []plainEvent
	passed int
	runs   int
	last   map[uint32]int // port -> program that put the latest copy there
}

// forward returns what becomes of a frame.
func (s *plainSwitch) forward(port uint32, f plainFrame) []plainEvent {
	r := &plainRun{s: s, last: map[uint32]int{}}
	r.enter(port, f, 0)
	return r.out
}

func (r *plainRun) enter(port uint32, f plainFrame, hops int) {
	sends, drop := r.s.walk(port, f)
	r.runs++
	run, outs := r.runs, 0
	for _, s := range sends {
		to := []uint32{s.port}
		if s.flood {
			to = slices.DeleteFunc(slices.Clone(r.s.floods[s.port]), func(p uint32) bool { return p == port })
		}
		for _, o := range to {
			outs++
			r.give(port, o, s.frame, hops, run)
		}
	}
	switch {
	case outs > 0:
	case len(sends) > 0:
		r.out = append(r.out, plainEvent{port, "", packet.ReasonNoBridgePort, true})
	default:
		r.out = append(r.out, plainEvent{port, "", dropReason(drop), true})
	}
}

func (r *plainRun) give(in, o uint32, f plainFrame, hops, run int) {
	peer, patch := r.s.peers[o]
	switch {
	case r.s.names[o] == "":
		r.out = append(r.out, plainEvent{in, "", packet.ReasonNoPort, true})
	case !patch:
		if last := r.last[o]; r.passed > 0 && last != 0 && last != run {
			r.out = append(r.out, plainEvent{o, "", packet.ReasonPatchLoop, false})
			return
		}
		r.last[o] = run
		r.out = append(r.out, plainEvent{o, string(f.bytes()), 0, false})
	default:
		if r.passed++; hops == patchMax || r.passed > passedMax {
			r.out = append(r.out, plainEvent{peer, "", packet.ReasonPatchLoop, true})
			return
		}
		r.enter(peer, frameOf(f.bytes()), hops+1)
	}
}
