package flowapi

import (
	"fmt"

	"millrace/flowtable"
)

// Bounds of one change. What is more is refused before it takes memory.
const (
	matchMax   = flowtable.ContextWords // masked words of a rule
	predsMax   = 32                     // predicates of a rule
	actionsMax = flowtable.ActionWordsMax
	fieldsMax  = 16   // fields of a select group
	bucketsMax = 1024 // buckets of a select group
)

// A checker takes numbers of the wire to where they go, and keeps the first
// thing that is wrong with a change.
type checker struct {
	err     error
	actions int // so far, nested ones too
}

// fail notes what is wrong.
func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// byte returns a number that must be at most limit.
func (c *checker) byte(what string, v, limit uint32) uint8 {
	if v > limit {
		c.fail("%s %d is more than %d", what, v, limit)
	}
	return uint8(v)
}

// short returns a number that must fit 16 bits.
func (c *checker) short(what string, v uint32) uint16 {
	if v > 0xffff {
		c.fail("%s %d is more than %d", what, v, 0xffff)
	}
	return uint16(v)
}

// field returns a field, or none.
func (c *checker) field(what string, v uint32) flowtable.Field {
	f, err := UnpackField(v)
	if err != nil {
		c.fail("%s: %w", what, err)
	}
	return f
}

// kind checks the kind of a predicate.
func (c *checker) kind(v uint32) uint8 {
	if v < flowtable.InSet || v > flowtable.NotEqual {
		c.fail("predicate: no kind %d", int32(v))
	}
	return uint8(v)
}

// code checks the code of an action, and counts it.
func (c *checker) code(v uint32) uint8 {
	if v < flowtable.ActSet || v > flowtable.ActHairpinReply {
		c.fail("action: no code %d", int32(v))
	}
	return uint8(v)
}

// room reports whether one more may follow have of a kind of thing.
func (c *checker) room(what string, have, limit int) bool {
	if have >= limit {
		c.fail("more than %d %s", limit, what)
	}
	return have < limit
}

// oneAction reports whether another action may follow at a depth, from 1.
func (c *checker) oneAction(depth int) bool {
	if depth > flowtable.DepthMax {
		c.fail("actions nested deeper than %d", flowtable.DepthMax)
		return false
	}
	c.actions++
	return c.room("actions", c.actions-1, actionsMax)
}

// members turns numbers into the members of a set of a width.
func (c *checker) members(out []flowtable.Member, width uint8, numbers []uint64) []flowtable.Member {
	n := memberNumbers(width)
	if len(numbers)%n != 0 {
		c.fail("%d numbers for members of %d each", len(numbers), n)
		return out
	}
	for ; len(numbers) > 0; numbers = numbers[n:] {
		m := flowtable.Member{Low: numbers[0], MaskLow: numbers[1]}
		if n == 4 {
			m = flowtable.Member{High: numbers[0], Low: numbers[1], MaskHigh: numbers[2], MaskLow: numbers[3]}
		}
		out = append(out, m)
	}
	return out
}
