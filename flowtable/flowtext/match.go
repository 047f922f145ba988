package flowtext

import (
	"fmt"
	"slices"
	"strings"

	"millrace/flowtable"
)

// A term is one comparison of a match, and the name that it is about.
type term struct{ name, text string }

// A writer writes what is about packets of a kind.
type writer struct {
	kind   kind
	places []place
	names  *Names
}

func newWriter(k kind, n *Names) *writer { return &writer{k, k.places(), n} }

// Match writes what a rule matches; all packets are "1".
func Match(match []flowtable.Masked, preds []flowtable.Pred, n *Names) string {
	w := newWriter(kindOf(match), n)
	terms := w.masked(match)
	for i := range preds {
		terms = append(terms, w.pred(&preds[i]))
	}
	terms = slices.DeleteFunc(terms, func(t term) bool { return implied(t, terms) })
	if len(terms) == 0 {
		return "1"
	}
	return strings.Join(texts(terms), " && ")
}

// Consulted writes which bits of fields are in the masks of words, as in
// "ip4.dst/24".
func Consulted(match []flowtable.Masked, n *Names) []string {
	var out []string
	for _, p := range newWriter(kindOf(match), n).parts(match) {
		out = append(out, p.bits(p.m))
	}
	return out
}

// bits writes the field with the bits of a mask.
func (p *place) bits(m value) string {
	lo, n, run := m.run()
	switch {
	case run && n == p.Width:
		return p.name
	case run && (p.form == formIP4 || p.form == formIP6) && lo+n == p.Width:
		return fmt.Sprintf("%s/%d", p.name, n)
	case run:
		return p.name + subfield(lo, n)
	case p.form == formMAC || p.form == formIP4 || p.form == formIP6:
		return p.name + "/" + m.text(p.form, nil)
	}
	return p.name + "/" + m.number(formHex)
}

func texts(terms []term) []string {
	out := make([]string, len(terms))
	for i, t := range terms {
		out[i] = t.text
	}
	return out
}

// implied reports whether a term says what others imply: ip4 where there is
// ip4.src, tcp where there is tcp.dst.
func implied(t term, all []term) bool {
	if t.text != t.name {
		return false
	}
	return slices.ContainsFunc(all, func(o term) bool {
		if strings.HasPrefix(o.name, t.name+".") {
			return true
		}
		icmp := map[string]string{"ip4": "icmp4", "ip6": "icmp6"}[t.name]
		return icmp != "" && (o.name == icmp || strings.HasPrefix(o.name, icmp+"."))
	})
}

// masked writes masked words by the fields that they cover.
func (w *writer) masked(match []flowtable.Masked) []term {
	var out []term
	for _, p := range w.parts(match) {
		if p.named {
			out = append(out, w.compare(p.place, p.v, p.m)...)
		} else {
			out = append(out, term{p.name, w.equal(p.place, "==", p.v.and(p.m), p.m)})
		}
	}
	return out
}

// A part is a field that masked words cover, or what is left of a word, which has no name.
type part struct {
	place
	named bool
	v, m  value // what it is, in the bits of m
}

// parts are those of masked words.
func (w *writer) parts(match []flowtable.Masked) (out []part) {
	var values, masks flowtable.Context
	for _, m := range match {
		if int(m.Word) < len(masks) {
			values[m.Word], masks[m.Word] = m.Value, m.Mask
		}
	}
	for _, p := range w.places {
		if m := p.cut(&masks); !m.zero() {
			p.clear(&masks)
			out = append(out, part{p, true, p.cut(&values), m})
		}
	}
	for word, m := range masks {
		if m != 0 {
			p := at(fmt.Sprint("word", word), uint8(word), 0, 64, formHex)
			out = append(out, part{p, false, value{0, values[word]}, value{0, m}})
		}
	}
	return out
}

// cut returns the bits of a field.
func (p *place) cut(c *flowtable.Context) value {
	if p.Width == 128 {
		return value{c[p.Word], c[p.Word+1]}
	}
	bits, _ := p.Bits()
	return value{0, c[p.Word] & bits >> p.Shift}
}

// clear makes the bits of a field zero.
func (p *place) clear(c *flowtable.Context) {
	high, low := p.Bits()
	c[p.Word] &^= high
	if low != 0 {
		c[p.Word+1] &^= low
	}
}

// compare writes what bits of a field are: with a symbol, if there is one for
// them.
func (w *writer) compare(p place, v, m value) []term {
	if out := w.symbols(p, v.low, m.low); out != nil {
		return out
	}
	return []term{{p.name, w.equal(p, "==", v, m)}}
}

// equal writes a comparison with the bits of a mask.
func (w *writer) equal(p place, op string, v, m value) string {
	v = v.and(m)
	lo, n, run := m.run()
	switch {
	case n == p.Width:
		if run {
			return p.name + " " + op + " " + v.text(p.form, w.names)
		}
	case run && (p.form == formIP4 || p.form == formIP6) && lo+n == p.Width:
		return fmt.Sprintf("%s %s %s/%d", p.name, op, v.text(p.form, w.names), n)
	case run && p.form != formMAC && p.form != formIP4 && p.form != formIP6:
		name, v := p.name+subfield(lo, n), v.shiftRight(lo)
		switch {
		case n == 1 && (op == "==") != v.zero():
			return name
		case n == 1:
			return "!" + name
		}
		return name + " " + op + " " + v.number(numeric(p.form))
	}
	f := p.form
	if f == formPort || f == formDatapath || f == formNumber {
		f = formHex
	}
	return fmt.Sprintf("%s %s %s/%s", p.name, op, v.text(f, w.names), m.text(f, w.names))
}

// numeric is how some bits of a field are written.
func numeric(f form) form {
	if f == formNumber {
		return formNumber
	}
	return formHex
}

// subfield writes which bits are meant.
func subfield(lo, n uint8) string {
	if n == 1 {
		return fmt.Sprintf("[%d]", lo)
	}
	return fmt.Sprintf("[%d..%d]", lo, lo+n-1)
}

// pred writes a predicate.
func (w *writer) pred(p *flowtable.Pred) term {
	f := w.find(p.Field)
	t := term{name: f.name}
	switch p.Kind {
	case flowtable.InSet, flowtable.NotInSet:
		sign := map[bool]string{true: "@", false: "$"}[f.form == formPort]
		op := map[bool]string{true: "==", false: "!="}[p.Kind == flowtable.InSet]
		t.text = fmt.Sprintf("%s %s %s", f.text(), op, w.names.set(sign, uint32(p.Set)))
	case flowtable.InRange:
		t.text = w.within(&f, value{0, p.Low}, value{0, p.High})
	case flowtable.NotEqual:
		v, m := value{0, p.Low}, value{0, p.Mask}
		if p.Field.Width == 128 {
			v, m = value{p.Low, p.LowLow}, value{p.Mask, p.MaskLow}
		}
		t.text = w.equal(f.alone(), "!=", v, m)
	default:
		t.text = fmt.Sprintf("predicate %d of %s", p.Kind, f.text())
	}
	return t
}

// within writes a range.
func (w *writer) within(f *found, low, high value) string {
	lo, hi := low.text(f.form, w.names), high.text(f.form, w.names)
	switch {
	case low == high:
		return f.text() + " == " + lo
	case low.zero():
		return f.text() + " <= " + hi
	case high == ones(f.n):
		return f.text() + " >= " + lo
	}
	return lo + " <= " + f.text() + " <= " + hi
}

// A found is a field, or some bits of it, by its name.
type found struct {
	place
	lo, n uint8 // which bits
}

// text writes the field with the bits that are meant.
func (f *found) text() string {
	if f.n == f.Width {
		return f.name
	}
	return f.name + subfield(f.lo, f.n)
}

// alone is the bits as a field by themselves.
func (f *found) alone() place {
	return place{f.text(), flowtable.Field{Width: f.n}, f.form}
}

// find returns what some bits of a word are called.
func (w *writer) find(field flowtable.Field) found {
	for _, p := range w.places {
		if p.Word == field.Word && p.Shift == field.Shift && p.Width == field.Width {
			return found{p, 0, p.Width}
		}
	}
	for _, p := range w.places {
		lo := int(field.Shift) - int(p.Shift)
		if p.Width == 128 && field.Word == p.Word {
			lo += 64
		}
		within := field.Word == p.Word || p.Width == 128 && field.Word == p.Word+1
		if within && lo >= 0 && lo+int(field.Width) <= int(p.Width) {
			p.form = numeric(p.form)
			return found{p, uint8(lo), field.Width}
		}
	}
	p := at(fmt.Sprint("word", field.Word), field.Word, 0, 64, formHex)
	return found{p, field.Shift, field.Width}
}
