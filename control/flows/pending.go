package flows

// A pending is a list of things to be done something with. Each knows whether it
// is in the list still: marked says where it notes that, which costs less than
// a map of a hundred thousand.
type pending[T any] struct {
	list []T
}

// add puts x on the list, unless it is marked to be there.
func (p *pending[T]) add(x T, marked *mark) {
	if !marked.set {
		marked.set = true
		if !marked.listed {
			marked.listed = true
			p.list = append(p.list, x)
		}
	}
}

// A mark says that something is in a pending list.
type mark struct {
	set    bool // there is something to be done
	listed bool // it is in the list, perhaps in vain
}

// take calls f with all that is to be done something with, and empties the list.
// What f puts on it is there next time.
func (p *pending[T]) take(marked func(T) *mark, f func(T)) {
	list := p.list
	p.list = nil
	for _, x := range list {
		m := marked(x)
		was := m.set
		*m = mark{}
		if was {
			f(x)
		}
	}
}

// some returns the first of what is to be done something with, at most n, and leaves
// the list as it is but for what is in it in vain.
func (p *pending[T]) some(n int, marked func(T) *mark) []T {
	kept := p.list[:0]
	for i, x := range p.list {
		if len(kept) == n {
			kept = append(kept, p.list[i:]...)
			break
		}
		if m := marked(x); m.set {
			kept = append(kept, x)
		} else {
			m.listed = false
		}
	}
	clear(p.list[len(kept):])
	p.list = kept
	return p.list[:min(n, len(kept))]
}
