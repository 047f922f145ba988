package flowtable

import (
	"maps"
	"math"
	"slices"
)

// model is what tables hold, in maps and slices: the reference to which they
// are compared.
type model struct {
	rules   map[RuleID]Rule
	decl    map[SetID]Set
	sets    map[SetID]map[Member]bool
	groups  map[GroupID][]uint64
	selects map[SelectID]Select
	entries map[uint32]Entry

	byTable map[uint8][]*Rule // of rules, made at the first walk
}

func newModel() *model {
	return &model{map[RuleID]Rule{}, map[SetID]Set{}, map[SetID]map[Member]bool{}, map[GroupID][]uint64{}, map[SelectID]Select{}, map[uint32]Entry{}, nil}
}

// clone returns a copy that changes leave alone.
func (m *model) clone() *model {
	n := &model{maps.Clone(m.rules), maps.Clone(m.decl), map[SetID]map[Member]bool{}, maps.Clone(m.groups), maps.Clone(m.selects), maps.Clone(m.entries), nil}
	for id, s := range m.sets {
		n.sets[id] = maps.Clone(s)
	}
	return n
}

// A delivery is a frame that left: where to, what is in it, and what became of
// its tags.
type delivery struct {
	port  uint32
	flood bool
	key   Key
	tags  string
}

// refWalk is a walk through a model.
type refWalk struct {
	m       *model
	length  uint32
	ctx     Context
	tags    string
	visited int
	depth   int
	ended   bool
	failed  bool
	out     []delivery
}

// walk returns what the model delivers.
func (m *model) walk(key *Key, length uint32) []delivery {
	if m.byTable == nil {
		m.byTable = map[uint8][]*Rule{}
		for _, r := range m.rules {
			m.byTable[r.Table] = append(m.byTable[r.Table], &r)
		}
	}
	w := &refWalk{m: m, length: length}
	copy(w.ctx[:], key[:])
	e, ok := m.entries[uint32(key[WordIn]>>32)]
	if !ok {
		return nil
	}
	for _, x := range e.Words {
		w.ctx[x.Word] = x.Value
	}
	w.ctx[WordDatapath] = e.Datapath
	w.ctx[WordPorts] = w.ctx[WordPorts]&0xffffffff | uint64(e.Inport)<<32
	w.table(e.Table)
	if w.failed {
		return nil
	}
	return w.out
}

func (w *refWalk) table(table uint8) {
	for {
		if w.visited++; w.visited > StepsMax {
			w.failed, w.ended = true, true
			return
		}
		r := w.lookup(table)
		if r == nil {
			return
		}
		next := w.run(r.Actions)
		if next < 0 || w.ended {
			return
		}
		table = uint8(next)
	}
}

// lookup looks at every rule.
func (w *refWalk) lookup(table uint8) (best *Rule) {
	for _, r := range w.m.byTable[table] {
		if !w.here(r) {
			continue
		}
		if best != nil && (r.Priority < best.Priority || r.Priority == best.Priority && r.ID > best.ID) {
			continue
		}
		if w.matches(r) {
			best = r
		}
	}
	return best
}

func (w *refWalk) here(r *Rule) bool {
	if r.Group != 0 {
		return slices.Contains(w.m.groups[r.Group], w.ctx[WordDatapath])
	}
	return r.Datapath == w.ctx[WordDatapath]
}

func (w *refWalk) matches(r *Rule) bool {
	for _, m := range r.Match {
		if w.ctx[m.Word]&m.Mask != m.Value {
			return false
		}
	}
	for _, p := range r.Preds {
		if !w.holds(p) {
			return false
		}
	}
	return true
}

// get returns the field as high and low half.
func (w *refWalk) get(f Field) (high, low uint64) {
	if f.Width == 128 {
		return w.ctx[f.Word], w.ctx[f.Word+1]
	}
	v := w.ctx[f.Word] >> f.Shift
	if f.Width < 64 {
		v &= 1<<f.Width - 1
	}
	return 0, v
}

func (w *refWalk) set(f Field, high, low uint64) {
	if f.Width == 128 {
		w.ctx[f.Word], w.ctx[f.Word+1] = high, low
		return
	}
	for i := range f.Width {
		bit := uint64(1) << (f.Shift + i)
		if f.Word == WordIn && f.Shift+i == 28 {
			continue
		}
		w.ctx[f.Word] &^= bit
		if low>>i&1 != 0 {
			w.ctx[f.Word] |= bit
		}
	}
}

func (w *refWalk) holds(p Pred) bool {
	high, low := w.get(p.Field)
	in := false
	for m := range w.m.sets[p.Set] {
		in = in || high&m.MaskHigh == m.High && low&m.MaskLow == m.Low
	}
	switch p.Kind {
	case InSet:
		return in
	case NotInSet:
		return !in
	case InRange:
		return low >= p.Low && low <= p.High
	}
	if p.Field.Width == 128 {
		return high&p.Mask != p.Low || low&p.MaskLow != p.LowLow
	}
	return low&p.Mask != p.Low
}

func (w *refWalk) deliver(port uint32, flood bool) {
	d := delivery{port: port, flood: flood, tags: w.tags}
	copy(d.key[:], w.ctx[:])
	w.out = append(w.out, d)
}

func (w *refWalk) deeper(f func()) {
	if w.depth == DepthMax {
		w.failed, w.ended = true, true
		return
	}
	w.depth++
	f()
	w.depth--
}

func (w *refWalk) copied(f func()) {
	w.deeper(func() {
		ctx, tags := w.ctx, w.tags
		f()
		w.ctx, w.tags, w.ended = ctx, tags, w.failed
	})
}

func (w *refWalk) list(acts []Action) {
	if next := w.run(acts); next >= 0 && !w.ended {
		w.table(uint8(next))
	}
}

func (w *refWalk) run(acts []Action) int {
	for i, a := range acts {
		if w.ended {
			return -1
		}
		next := -1
		switch a.Code {
		case ActNext:
			next = int(a.Table)
		case ActSet:
			if a.Dst.Width == 128 {
				w.set(a.Dst, a.Value, a.ValueLow)
			} else {
				w.set(a.Dst, 0, a.Value)
			}
		case ActMove:
			h, l := w.get(a.Src)
			w.set(a.Dst, h, l)
		case ActExchange:
			h, l := w.get(a.Src)
			h2, l2 := w.get(a.Dst)
			w.set(a.Dst, h, l)
			w.set(a.Src, h2, l2)
		case ActDrop:
			return -1
		case ActOutput:
			port := uint64(a.Arg)
			if port == 0 {
				_, port = w.get(a.Dst)
			}
			switch {
			case port == 0, uint32(port)&FloodPort != 0 && uint32(port) != FloodPort|1: // there is one such list
			case uint32(port)&FloodPort != 0:
				w.deliver(uint32(port), true)
			default:
				w.deliver(uint32(port), false)
			}
		case ActFlood:
			w.deliver(a.Arg, true)
		case ActClone:
			w.copied(func() { w.list(a.Nested) })
		case ActDatapath:
			w.copied(func() {
				clear(w.ctx[KeyWords:])
				w.ctx[WordDatapath], w.ctx[WordPorts] = a.Value, uint64(a.Arg)<<32
				w.table(a.Table)
			})
		case ActPushVLAN:
			w.tags = tagged(w.tags, tagPushed(w.ctx[WordIn], a.Arg))
			w.ctx[WordIn] = w.ctx[WordIn]&^tagBits | TagPresent<<16
		case ActPopVLAN:
			w.tags = tagged(w.tags, "pop ")
			w.ctx[WordIn] &^= tagBits
		case ActDecTTL:
			ttl := w.ctx[WordSrc] & 0xff
			if ttl <= 1 {
				w.ended = true
				return -1
			}
			w.ctx[WordSrc]--
		case ActSelect:
			next = w.choose(&a)
		case ActLarger:
			v := uint64(0)
			if w.length > a.Arg {
				v = 1
			}
			w.set(a.Dst, 0, v)
		case ActGetFDB, ActLookupFDB:
			w.fdb(&a)
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

// tagged appends to what became of tags, of which the latest is kept.
func tagged(tags, more string) string {
	if tags += more; len(tags) > 128 {
		tags = tags[len(tags)-64:]
	}
	return tags
}

// tagPushed tells of a push.
func tagPushed(in uint64, ethType uint32) string {
	return string(rune('a'+in>>16&0xf)) + string(rune('a'+in>>20&0xf)) + string(rune('a'+ethType&0xf)) + "push "
}

func (w *refWalk) choose(a *Action) int {
	s := w.m.selects[SelectID(a.Arg)]
	h := uint64(selectStart)
	for _, f := range s.Fields {
		high, low := w.get(f)
		h = selectMix(selectMix(h, high), low)
	}
	best, score := -1, math.Inf(-1)
	for i, b := range s.Buckets {
		if d := draw(h, b.ID, b.Weight); b.Weight > 0 && d > score {
			best, score = i, d
		}
	}
	if best < 0 {
		return -1
	}
	if a.Dst.Width == 0 {
		w.deeper(func() { w.list(s.Buckets[best].Actions) })
		return -1
	}
	w.set(a.Dst, 0, uint64(s.Buckets[best].ID))
	return int(a.Table)
}

// testFDB is a forwarding database that never changes.
func testFDB(fdb uint32, address uint64) (port uint32, ok bool) {
	return uint32(address&3) + fdb, address&4 != 0
}

func (w *refWalk) fdb(a *Action) {
	_, address := w.get(a.Src)
	port, ok := testFDB(a.Arg, address)
	v := uint64(0)
	if a.Code == ActGetFDB && ok {
		v = uint64(port)
	}
	if a.Code == ActLookupFDB && ok {
		if _, want := w.get(a.Src2); want == uint64(port) {
			v = 1
		}
	}
	w.set(a.Dst, 0, v)
}

// replay does what a program says to a frame.
func replay(ops []Op, key *Key) []delivery {
	type frame struct {
		key  Key
		tags string
	}
	f := frame{key: *key}
	var saved []frame
	var out []delivery
	for _, op := range ops {
		switch op.Code {
		case OpSet:
			f.key[op.Word] = f.key[op.Word]&^op.Mask | op.Value
		case OpPushVLAN:
			f.tags = tagged(f.tags, tagPushed(f.key[WordIn], op.Arg))
			f.key[WordIn] = f.key[WordIn]&^tagBits | TagPresent<<16
		case OpPopVLAN:
			f.tags = tagged(f.tags, "pop ")
			f.key[WordIn] &^= tagBits
		case OpSave:
			saved = append(saved, f)
		case OpRestore:
			f, saved = saved[len(saved)-1], saved[:len(saved)-1]
		case OpOutput, OpFlood:
			out = append(out, delivery{op.Arg, op.Code == OpFlood, f.key, f.tags})
		}
	}
	return out
}
