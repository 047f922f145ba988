package flowcache

import "slices"

// A slab is a run of lines for programs of one class.
type slab struct {
	class uint8
	used  uint16 // programs in it
	fresh uint16 // places that were never used begin here
	free  uint32 // first free place, or 0
	place int32  // where it stands in partial, or -1
}

// classFor returns the class of programs of n words.
func (a *programs) classFor(n int) int {
	lines := uint16((8*n + lineBytes - 1) / lineBytes)
	class, _ := slices.BinarySearch(a.classes, lines)
	return class
}

// alloc returns the offset of a place for n words, or 0. Only the generation
// and class of the header there mean something.
func (a *programs) alloc(n int) uint32 {
	class := a.classFor(n)
	if len(a.partial[class]) == 0 && !a.takeSlab(class) {
		return 0
	}
	size := uint32(a.classes[class])
	list := a.partial[class]
	at := list[len(list)-1]
	s := &a.slabs[at]
	off := s.free
	if off != 0 {
		s.free = a.at(off).next
	} else {
		off = at*slabLines + uint32(s.fresh)*size
		a.at(off).class = uint8(class)
		s.fresh++
	}
	s.used++
	if s.free == 0 && (uint32(s.fresh)+1)*size > slabLines {
		a.partial[class] = list[:len(list)-1]
		s.place = -1
	}
	a.live++
	a.lines += int(size)
	return off
}

// takeSlab gives a free slab to a class.
func (a *programs) takeSlab(class int) bool {
	if len(a.spare) == 0 {
		return false
	}
	at := a.spare[len(a.spare)-1]
	a.spare = a.spare[:len(a.spare)-1]
	a.reached = max(a.reached, int(at)+1)
	a.slabs[at] = slab{class: uint8(class), place: int32(len(a.partial[class]))}
	a.partial[class] = append(a.partial[class], at)
	return true
}

// settle puts slab at, of which a place became free, where it belongs: among
// those with room, or, if it is empty, among those of no class.
func (a *programs) settle(at uint32) {
	s := &a.slabs[at]
	list := a.partial[s.class]
	switch {
	case s.used == 0:
		if s.place >= 0 {
			last := list[len(list)-1]
			list[s.place], a.slabs[last].place = last, s.place
			a.partial[s.class] = list[:len(list)-1]
		}
		a.spare = append(a.spare, at)
	case s.place < 0:
		s.place = int32(len(list))
		a.partial[s.class] = append(list, at)
	}
}
