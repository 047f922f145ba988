package flowtable

// table goes through a table and what its rule says, and on, as long as the
// last action of a rule is to look on.
func (w *Walker) table(table uint8) {
	for {
		if w.visited++; w.visited > StepsMax {
			w.give(DropSteps)
			return
		}
		rule := w.step(table)
		if rule == 0 {
			w.last = DropNoRule
			return
		}
		v := w.t.mem.words[rule+ruleShape]
		next := w.run(w.t.mem.words[rule+uint32(v>>32&0xffff) : rule+uint32(v>>48)])
		if next < 0 || w.ended {
			return
		}
		table = uint8(next)
	}
}

// step looks a table up, and notes where it was and what it found.
func (w *Walker) step(table uint8) uint32 {
	rule := uint32(0)
	if w.dp == 0 {
		w.edges = append(w.edges, regionUnknown<<8)
	} else {
		w.edges = append(w.edges, uint64(w.dp)<<8|uint64(table))
		rule = w.lookup(w.dp, table)
	}
	if rule != 0 {
		w.out.Rules = append(w.out.Rules, uint32(w.t.mem.words[rule+ruleHandle]))
	}
	if w.trace != nil {
		w.trace.table(w, table, rule)
	}
	return rule
}

// give ends the walk, and delivers nothing.
func (w *Walker) give(reason uint32) {
	w.failed, w.ended, w.last = true, true, reason
}

// run does the actions in words. If the last of them is to look on in a table,
// it returns that table, otherwise -1.
func (w *Walker) run(words []uint64) (next int) {
	var s step
	for len(words) > 0 && !w.ended {
		if w.outputs > 0 {
			w.stages.at = 0
		}
		if w.trace == nil {
			if len(words) == 1 && uint8(words[0]) == ActNext {
				return int(uint8(words[0] >> 8))
			}
			if n := w.set(words); n > 0 {
				words = words[n:]
				continue
			}
		}
		n := decodeStep(&s, words)
		words = words[n:]
		if w.trace != nil {
			w.trace.action(w, &s)
		}
		if plainActions>>s.code&1 == 0 {
			w.stages.at = 0
		}
		switch s.code {
		case ActNext:
			if len(words) == 0 {
				return int(s.table)
			}
			w.nested(func() { w.table(s.table) })
		case ActSet:
			w.write(s.dst, s.value, s.valueLow)
		case ActMove:
			high, low := w.read(s.src)
			w.write(s.dst, high, low)
		case ActExchange:
			w.exchange(s.dst, s.src)
		case ActCT:
			w.connect(&s, words)
			if s.arg&CTResume != 0 && !w.ended {
				if len(words) == 0 {
					w.behindAsk()
					return int(s.table)
				}
				w.copied(func() { w.table(s.table) })
			}
			w.disconnect()
			w.behindAsk()
		case ActDrop:
			w.last = s.arg
			return -1
		default:
			if next := w.act(&s); next >= 0 {
				if len(words) == 0 {
					return next
				}
				w.nested(func() { w.table(uint8(next)) })
			}
		}
	}
	return -1
}

// exchange gives each of two fields the other's value.
func (w *Walker) exchange(a, b Field) {
	high, low := w.read(a)
	high2, low2 := w.read(b)
	w.write(a, high2, low2)
	w.write(b, high, low)
}

// set does the first action of words if it is an ActSet of a field of one word, as most
// actions are, without decoding what those do not have. It returns the action's size, or 0.
func (w *Walker) set(words []uint64) int {
	if len(words) < oneSetWords || uint8(words[0]) != ActSet || words[0]>>16&0xffff != oneSetWords {
		return 0
	}
	f := unpack(words[1])
	if words[1]>>48 != hasValue>>48 || f.Width > 64 || f.Word >= WordTunSrc {
		return 0
	}
	mask, _ := f.Bits()
	w.writeWord(f.Word, mask, words[2]<<f.Shift)
	return oneSetWords
}

// oneSetWords is the size of an ActSet of a field of one word.
const oneSetWords = 3

// act does the less frequent actions. It returns the table to look on in, or -1.
func (w *Walker) act(s *step) int {
	switch s.code {
	case ActOutput:
		w.output(s)
	case ActFlood:
		op := Op{Code: OpFlood, Arg: s.arg}
		if s.dst.Width != 0 {
			_, op.Value = w.read(s.dst)
		}
		w.flush()
		w.emit(op)
		w.outputs++
	case ActClone:
		nested := s.nested
		w.copied(func() { w.list(nested) })
	case ActDatapath:
		datapath, inport, table := s.value, s.arg, s.table
		w.copied(func() {
			clear(w.ctx[KeyWords:])
			w.place(datapath, inport)
			w.table(table)
		})
	case ActPushVLAN:
		w.pushVLAN(s.arg)
	case ActPopVLAN:
		w.popVLAN()
	case ActDecTTL:
		w.decTTL()
	case ActSelect:
		return w.choose(s)
	case ActMeter:
		w.emit(Op{Code: OpMeter, Arg: s.arg})
	case ActGetFDB, ActLookupFDB:
		w.lookupFDB(s)
	case ActPutFDB:
		_, address := w.read(s.src)
		_, port := w.read(s.src2)
		if w.side.Learn != nil {
			w.side.Learn(s.arg, address, uint32(port))
		}
		w.emit(Op{Code: OpLearn, Arg: s.arg, Value: port, Mask: address})
	case ActLarger:
		w.larger(s)
	case ActCTClear:
		w.disconnect()
	case ActCTOriginal:
		w.original(s)
	default:
		w.balance(s)
	}
	return -1
}

// list does actions, and looks on if the last of them says so.
func (w *Walker) list(words []uint64) {
	if next := w.run(words); next >= 0 && !w.ended {
		w.table(uint8(next))
	}
}

// nested runs f one level deeper.
func (w *Walker) nested(f func()) {
	if w.depth == DepthMax {
		w.give(DropDepth)
		return
	}
	w.depth++
	f()
	w.depth--
}

// copied runs f on a copy of the packet. The frame is saved before and restored
// after; prune takes out what of that was not needed.
func (w *Walker) copied(f func()) {
	w.nested(func() {
		s := &w.saves[w.depth-1]
		s.ctx, s.touched, s.done, s.frame, s.dp, s.made, s.pushed, s.below = w.ctx, w.touched, w.done, w.frame, w.dp, w.made, w.pushed, w.below
		w.clones++
		w.emit(Op{Code: OpSave})
		f()
		w.emit(Op{Code: OpRestore})
		w.ctx, w.touched, w.done, w.frame, w.dp, w.made, w.pushed, w.below = s.ctx, s.touched, s.done, s.frame, s.dp, s.made, s.pushed, s.below
		w.ended = w.failed
	})
}

// OpsMax bounds the ops of a program.
const OpsMax = 4096

// emit appends an op.
func (w *Walker) emit(op Op) {
	if len(w.out.Ops) == OpsMax {
		w.give(DropOps)
		return
	}
	w.out.Ops = append(w.out.Ops, op)
}

// read returns a field's value as actions have it: for up to 64 bits in low;
// the walk depends on it.
func (w *Walker) read(f Field) (high, low uint64) {
	w.consultField(f)
	return halves(&w.ctx, f)
}

// write sets a field to a value as read returns it, or, for ActSet with its
// value in the first half of 64 bits or fewer, as that has it.
func (w *Walker) write(f Field, high, low uint64) {
	if f.Width == 128 {
		w.writeWord(f.Word, ^uint64(0), high)
		w.writeWord(f.Word+1, ^uint64(0), low)
	} else {
		mask, _ := f.Bits()
		w.writeWord(f.Word, mask, (high|low)<<f.Shift)
	}
	if f.Word >= WordTunSrc {
		w.tellEnd(f.Word)
	}
}

// tellEnd tells outputs behind it of the address of a tunnel of which a word was written: all of it.
func (w *Walker) tellEnd(word uint8) {
	w.stages.at = 0 // stages write words, and no ops
	word = WordTunSrc + (word-WordTunSrc)&^1
	w.emit(Op{Code: OpSet, Word: word, Value: w.ctx[word], Mask: ^uint64(0)})
	w.emit(Op{Code: OpSet, Word: word + 1, Value: w.ctx[word+1], Mask: ^uint64(0)})
}

// writeWord sets bits of a word. That there is a tag is for push and pop.
func (w *Walker) writeWord(word uint8, mask, value uint64) {
	if word == WordIn {
		mask &^= TagPresent << 16
	}
	word &= ContextWords - 1
	w.ctx[word] = w.ctx[word]&^mask | value&mask
	w.stages.fresh[word] |= mask
	if word < KeyWords {
		w.touched[word] |= mask
	}
}

// flush makes the frame what the context says, by as few ops as there can be.
func (w *Walker) flush() {
	for i, touched := range &w.touched {
		if touched != 0 {
			w.flushWord(uint8(i), ^uint64(0))
		}
	}
}

// flushWord does so for bits of a word. Bits that are consulted, or that an op
// has written, are known, and need no op if they are right.
func (w *Walker) flushWord(i uint8, bits uint64) {
	touched := w.touched[i] & bits
	if touched == 0 {
		return
	}
	known := w.done[i] | w.out.Mask[i]
	wrong := touched &^ (known &^ (w.frame[i] ^ w.ctx[i]))
	if wrong == 0 {
		return
	}
	wrong |= wholeBytes(wrong) & touched // bytes are written faster than bits
	w.emit(Op{Code: OpSet, Word: i, Mask: wrong, Value: w.ctx[i] & wrong})
	w.frame[i] = w.frame[i]&^wrong | w.ctx[i]&wrong
	w.done[i] |= wrong
}

// wholeBytes returns all bits of the bytes in which v has some.
func wholeBytes(v uint64) uint64 {
	v = (v | v>>4) & 0x0f0f0f0f0f0f0f0f
	v = (v | v>>2) & 0x0303030303030303
	return (v | v>>1) & 0x0101010101010101 * 0xff
}

// output delivers to the port that an action names.
func (w *Walker) output(s *step) {
	port := s.arg
	if port == 0 {
		_, v := w.read(s.dst)
		port = uint32(v)
	}
	op := Op{Code: OpOutput, Arg: port}
	if port&FloodPort != 0 {
		op.Code = OpFlood
	}
	if port == 0 || op.Code == OpFlood && w.t.findObject(objFlood, op.Arg) == 0 {
		w.last = DropNoPort
		return
	}
	if op.Code == OpFlood {
		w.stages.at = 0
	}
	w.flush()
	w.emit(op)
	w.outputs++
}

// tagBits are the TCI in WordIn.
const tagBits = 0xffff << 16

// pushVLAN puts a tag on the frame. What is pending for the tag that is there
// goes into the frame before.
func (w *Walker) pushVLAN(ethType uint32) {
	w.flushWord(WordIn, tagBits)
	w.pushed = true
	if w.ctx[WordIn]&(TagPresent<<16) != 0 {
		w.below = true
	}
	w.emit(Op{Code: OpPushVLAN, Arg: ethType})
	w.retag(TagPresent << 16)
}

// popVLAN takes the tag off.
func (w *Walker) popVLAN() {
	w.emit(Op{Code: OpPopVLAN})
	w.retag(0)
}

// retag notes the TCI that the frame has after a push or a pop.
func (w *Walker) retag(tci uint64) {
	w.ctx[WordIn] = w.ctx[WordIn]&^tagBits | tci
	w.frame[WordIn] = w.frame[WordIn]&^tagBits | tci
	w.touched[WordIn] |= tagBits
	w.done[WordIn] |= tagBits
}

// decTTL takes one off the TTL, which the walk then depends on.
func (w *Walker) decTTL() {
	f := Field{Word: WordSrc, Width: 8}
	_, ttl := w.read(f)
	if ttl <= 1 {
		w.ended, w.last = true, DropTTL
		return
	}
	w.write(f, 0, ttl-1)
}

// larger compares the frame's length. It is not in the key, so the program is
// for frames of some lengths only.
func (w *Walker) larger(s *step) {
	o := &w.out
	if w.made {
		w.write(s.dst, 0, 0) // replies are short
		return
	}
	if w.length > s.arg {
		o.LenMin = max(o.LenMin, s.arg+1)
		w.write(s.dst, 0, 1)
		return
	}
	o.LenMax = min(o.LenMax, s.arg)
	w.write(s.dst, 0, 0)
}

// lookupFDB asks a forwarding database.
func (w *Walker) lookupFDB(s *step) {
	_, address := w.read(s.src)
	want := uint64(0)
	if s.code == ActLookupFDB {
		_, want = w.read(s.src2)
	}
	var port uint32
	var ok bool
	if w.side.Lookup != nil {
		var g Guard
		port, g, ok = w.side.Lookup(s.arg, address, w.now)
		w.out.Guards = append(w.out.Guards, g)
	}
	switch {
	case !ok:
		w.write(s.dst, 0, 0)
	case s.code == ActGetFDB:
		w.write(s.dst, 0, uint64(port))
	case uint64(port) == want:
		w.write(s.dst, 0, 1)
	default:
		w.write(s.dst, 0, 0)
	}
}

// mark is an OpSave whose OpRestore is not yet seen.
type mark struct {
	at      int
	changes bool // something after it changes the frame or may end the copy
}

// prune takes out pairs of OpSave and OpRestore that change nothing: there is
// nothing between them that changes the frame or may end the copy, or nothing
// after them.
func (w *Walker) prune() {
	ops := w.out.Ops
	last := -1 // the last op that is not an OpRestore
	for i := range ops {
		if ops[i].Code != OpRestore && ops[i].Code != OpSave {
			last = i
		}
	}
	w.marks = w.marks[:0]
	for i := range ops {
		switch ops[i].Code {
		case OpSave:
			w.marks = append(w.marks, mark{at: i})
		case OpRestore:
			n := len(w.marks) - 1
			if n < 0 {
				continue
			}
			m := w.marks[n]
			w.marks = w.marks[:n]
			if !m.changes || i > last {
				ops[m.at].Code, ops[i].Code = 0, 0
			}
			if n > 0 {
				w.marks[n-1].changes = w.marks[n-1].changes || m.changes
			}
		case OpSet, OpPushVLAN, OpPopVLAN, OpDecTTL, OpMeter, OpInner, OpReply:
			if n := len(w.marks); n > 0 {
				w.marks[n-1].changes = true
			}
		}
	}
	kept := ops[:0]
	for _, op := range ops {
		if op.Code != 0 {
			kept = append(kept, op)
		}
	}
	w.out.Ops = kept
}
