package flowtable

import (
	"fmt"
	"sync"
)

// Fields, predicates and actions as words of an arena.
//
// A packed field is word (bits 16..23), shift (8..15), width (0..7).
//
// A predicate is kind (0..7), packed field (8..31), set (32..63), and then by
// kind: the set's block; low and high; or low, low half, and both masks.
//
// An action is code (0..7), table (8..15), its size in words with what is
// nested (16..31), Arg (32..63). If it is longer than that: a word of packed
// Dst (0..23), packed Src (24..47) and what follows (48..), which may be Src2,
// Value, ValueLow; then the nested actions.
const (
	hasSrc2 = 1 << (48 + iota)
	hasValue
	hasLow
)

// ActionWordsMax bounds the encoded actions of one rule.
const ActionWordsMax = 4096

// pack returns the field as 24 bits.
func pack(f Field) uint64 {
	return uint64(f.Word)<<16 | uint64(f.Shift)<<8 | uint64(f.Width)
}

// unpack undoes pack, but for the name.
func unpack(v uint64) Field {
	return Field{Word: uint8(v >> 16), Shift: uint8(v >> 8), Width: uint8(v)}
}

// predWords returns the size of a predicate.
func predWords(kind uint8) int {
	switch kind {
	case InRange:
		return 3
	case NotEqual:
		return 5
	}
	return 2
}

// encodePred appends p; set is the block of its set.
func encodePred(out []uint64, p *Pred, set uint32) []uint64 {
	out = append(out, uint64(p.Kind)|pack(p.Field)<<8|uint64(p.Set)<<32)
	switch p.Kind {
	case InRange:
		return append(out, p.Low, p.High)
	case NotEqual:
		return append(out, p.Low, p.LowLow, p.Mask, p.MaskLow)
	}
	return append(out, uint64(set))
}

// decodePred returns the predicate that begins words, and its size.
func decodePred(words []uint64) (Pred, int) {
	p := Pred{Kind: uint8(words[0]), Field: named(unpack(words[0] >> 8 & 0xffffff)), Set: SetID(words[0] >> 32)}
	switch p.Kind {
	case InRange:
		p.Low, p.High = words[1], words[2]
	case NotEqual:
		p.Low, p.LowLow, p.Mask, p.MaskLow = words[1], words[2], words[3], words[4]
	}
	return p, predWords(p.Kind)
}

// encodeActions appends the actions.
func encodeActions(out []uint64, acts []Action) ([]uint64, error) {
	for i := range acts {
		a := &acts[i]
		start := len(out)
		out = append(out, uint64(a.Code)|uint64(a.Table)<<8|uint64(a.Arg)<<32)
		out = encodeOperands(out, a)
		var err error
		if out, err = encodeActions(out, a.Nested); err != nil {
			return out, err
		}
		n := len(out) - start
		if n > ActionWordsMax {
			return out, fmt.Errorf("actions take %d words, of at most %d", n, ActionWordsMax)
		}
		out[start] |= uint64(n) << 16
	}
	return out, nil
}

// encodeOperands appends what an action has beyond its first word.
func encodeOperands(out []uint64, a *Action) []uint64 {
	f := pack(a.Dst) | pack(a.Src)<<24
	if a.Src2.Width != 0 {
		f |= hasSrc2
	}
	if a.Value != 0 || a.Code == ActSet {
		f |= hasValue
	}
	if a.ValueLow != 0 {
		f |= hasLow
	}
	if f == 0 && len(a.Nested) == 0 {
		return out
	}
	out = append(out, f)
	if f&hasSrc2 != 0 {
		out = append(out, pack(a.Src2))
	}
	if f&hasValue != 0 {
		out = append(out, a.Value)
	}
	if f&hasLow != 0 {
		out = append(out, a.ValueLow)
	}
	return out
}

// A step is one decoded action. Its nested actions are still words.
type step struct {
	code, table     uint8
	arg             uint32
	dst, src, src2  Field
	value, valueLow uint64
	nested          []uint64
}

// decodeStep fills s with the first action of words, and returns its size.
func decodeStep(s *step, words []uint64) int {
	h := words[0]
	n := int(h >> 16 & 0xffff)
	s.code, s.table, s.arg = uint8(h), uint8(h>>8), uint32(h>>32)
	if n == 1 {
		s.dst, s.src, s.src2, s.value, s.valueLow, s.nested = Field{}, Field{}, Field{}, 0, 0, nil
		return 1
	}
	f := words[1]
	s.dst, s.src, s.src2 = unpack(f), unpack(f>>24), Field{}
	s.value, s.valueLow = 0, 0
	i := 2
	if f&hasSrc2 != 0 {
		s.src2 = unpack(words[i])
		i++
	}
	if f&hasValue != 0 {
		s.value = words[i]
		i++
	}
	if f&hasLow != 0 {
		s.valueLow = words[i]
		i++
	}
	s.nested = words[i:n]
	return n
}

// decodeActions returns the actions in words.
func decodeActions(words []uint64) []Action {
	var out []Action
	for len(words) > 0 {
		var s step
		n := decodeStep(&s, words)
		out = append(out, s.action())
		words = words[n:]
	}
	return out
}

// action returns the step as it was given.
func (s *step) action() Action {
	return Action{Code: s.code, Table: s.table, Arg: s.arg, Dst: named(s.dst), Src: named(s.src), Src2: named(s.src2),
		Value: s.value, ValueLow: s.valueLow, Nested: decodeActions(s.nested)}
}

// named returns f with its name, if a field has these bits; the first of
// several.
func named(f Field) Field {
	if g, ok := byBits()[pack(f)]; ok {
		return g
	}
	return f
}

// byBits are the fields by their packed form.
var byBits = sync.OnceValue(func() map[uint64]Field {
	m := map[uint64]Field{}
	for _, f := range Fields() {
		if _, ok := m[pack(f)]; !ok {
			m[pack(f)] = f
		}
	}
	return m
})
