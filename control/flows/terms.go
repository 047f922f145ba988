package flows

import (
	"slices"

	"millrace/control/logical"
	"millrace/flowtable"
)

// terms is the match of one rule in the making.
type terms struct {
	match []flowtable.Masked // in the order of words
	preds []flowtable.Pred
}

// clone returns terms that can grow apart from t.
func (t terms) clone() terms { return terms{slices.Clone(t.match), slices.Clone(t.preds)} }

// demand adds masked bits of a word, and reports whether they can be had beside
// what is demanded already.
func (t *terms) demand(word uint8, mask, value uint64) bool {
	if mask == 0 {
		return true
	}
	i := 0
	for i < len(t.match) && t.match[i].Word < word {
		i++
	}
	if i == len(t.match) || t.match[i].Word != word {
		t.match = slices.Insert(t.match, i, flowtable.Masked{Word: word, Value: value, Mask: mask})
		return true
	}
	m := &t.match[i]
	if (m.Value^value)&m.Mask&mask != 0 {
		return false
	}
	m.Value, m.Mask = m.Value|value, m.Mask|mask
	return true
}

// demandField adds masked bits of a field of the language.
func (t *terms) demandField(f flowtable.Field, mask, value logical.Value) bool {
	if f.Width == 128 {
		return t.demand(f.Word, mask.Hi, value.Hi) && t.demand(f.Word+1, mask.Lo, value.Lo)
	}
	return t.demand(f.Word, mask.Lo<<f.Shift, value.Lo<<f.Shift)
}

// join adds all of o, and reports whether both can hold.
func (t *terms) join(o *terms) bool {
	for _, m := range o.match {
		if !t.demand(m.Word, m.Mask, m.Value) {
			return false
		}
	}
	t.preds = append(t.preds, o.preds...)
	return true
}

// tag is what is known of a packet's VLAN tag.
type tag uint8

const (
	tagUnknown tag = iota
	tagged
	untagged
	tags = iota // how many
)

// tagBit is the bit of the in word that says that there is a tag.
const tagBit = flowtable.TagPresent << 16

// tag returns what the terms say of the tag.
func (t *terms) tag() tag {
	for _, m := range t.match {
		if m.Word == flowtable.WordIn && m.Mask&tagBit != 0 {
			if m.Value&tagBit != 0 {
				return tagged
			}
			return untagged
		}
	}
	return tagUnknown
}

// family is what is known of a packet's IP version.
type family uint8

const (
	familyUnknown family = iota
	family4
	family6
	families = iota // how many
)

// family returns what the terms say of the IP version.
func (t *terms) family() family {
	const mask = 0xffff
	for _, m := range t.match {
		if m.Word == flowtable.WordIn && m.Mask&mask == mask {
			switch m.Value & mask {
			case 0x0800:
				return family4
			case 0x86dd:
				return family6
			}
		}
	}
	return familyUnknown
}
