package flows

import (
	"slices"

	"millrace/control/logical"
)

// A pushed value is what a reference held at some point.
type pushed struct {
	ref   logical.Ref
	stale bool // the reference has been written since
}

// unstack replaces push and pop, which flow tables do not have, by moves, and by
// exchanges where two values change places. A value whose place has been written
// before it is popped is gone: that is an error.
func unstack(list []logical.Action) ([]logical.Action, error) {
	if !slices.ContainsFunc(list, isStack) {
		return list, nil
	}
	var stack []pushed
	var out []logical.Action
	for i := 0; i < len(list); i++ {
		a, ok := list[i].(*logical.Stack)
		switch {
		case !ok:
			out = append(out, list[i])
			age(stack, list[i])
			continue
		case a.Verb == "push":
			stack = append(stack, pushed{ref: a.Ref})
			continue
		}
		n := len(stack) - 1
		if n < 0 {
			return nil, fail("pop", "nothing has been pushed in this list of actions")
		}
		top := stack[n]
		switch {
		case bitsIn(top.ref) != bitsIn(a.Ref):
			return nil, fail("pop", "%s has %d bits, what was pushed has %d", a.Ref.Symbol.Name, bitsIn(a.Ref), bitsIn(top.ref))
		case top.stale:
			return nil, fail("pop", "%s, which was pushed, has been written since: use <->, or a register", top.ref.Symbol.Name)
		}
		stack = stack[:n]
		if n > 0 && !stack[n-1].stale && stack[n-1].ref == a.Ref && pops(list[i+1:], top.ref) {
			stack = stack[:n-1]
			out = append(out, &logical.Exchange{A: a.Ref, B: top.ref})
			i++
		} else {
			out = append(out, &logical.Move{To: a.Ref, From: top.ref})
		}
		age(stack, out[len(out)-1])
	}
	return out, nil
}

func isStack(a logical.Action) bool {
	_, ok := a.(*logical.Stack)
	return ok
}

// pops reports whether the first of list pops r.
func pops(list []logical.Action, r logical.Ref) bool {
	if len(list) == 0 {
		return false
	}
	a, ok := list[0].(*logical.Stack)
	return ok && a.Verb == "pop" && a.Ref == r
}

// age marks what an action writes.
func age(stack []pushed, a logical.Action) {
	var to []logical.Ref
	switch a := a.(type) {
	case *logical.Block, *logical.UseMeter, *logical.SetMeter, *logical.PutFDB, *logical.Mirror, *logical.CommitAffinity:
		return // they write nothing, or a copy
	case *logical.Load:
		to = []logical.Ref{a.To}
	case *logical.Move:
		to = []logical.Ref{a.To}
	case *logical.Exchange:
		to = []logical.Ref{a.A, a.B}
	case *logical.GetFDB:
		to = []logical.Ref{a.To}
	case *logical.LookupFDB:
		to = []logical.Ref{a.To}
	case *logical.CheckPacketLarger:
		to = []logical.Ref{a.To}
	case *logical.Simple:
		if a.Verb == "output" {
			return
		}
		for i := range stack {
			stack[i].stale = stack[i].stale || a.Verb != "ip.ttl--" || stack[i].ref.Symbol.Field == logical.FieldIPTTL
		}
		return
	default: // another table has been there
		for i := range stack {
			stack[i].stale = true
		}
	}
	for i := range stack {
		for _, r := range to {
			stack[i].stale = stack[i].stale || overlap(stack[i].ref, r)
		}
	}
}

// overlap reports whether two references have bits in common. Fields of the
// language that lie in one place have different prerequisites.
func overlap(a, b logical.Ref) bool {
	return a.Symbol.Field == b.Symbol.Field && lowBit(a) < lowBit(b)+bitsIn(b) && lowBit(b) < lowBit(a)+bitsIn(a)
}
