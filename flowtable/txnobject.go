package flowtable

import (
	"fmt"
	"sync/atomic"
)

// SetSet makes a set, or makes members the only ones of one that is there.
func (x *Txn) SetSet(s Set, members []Member) error {
	t := x.t
	ref := t.findSet(s.ID)
	n := 1 + len(members)
	if ref != 0 {
		n += int(t.mem.words[ref+setMembers] >> 32)
	}
	if err := x.room(n); err != nil {
		return x.refuse(0, fmt.Errorf("set %d: %w", s.ID, err))
	}
	if ref != 0 && t.declared(ref) != s {
		return x.refuse(0, fmt.Errorf("set %d: width and kind of a set cannot change", s.ID))
	}
	if err := t.checkMembers(s, ref, members); err != nil {
		return x.refuse(0, fmt.Errorf("set %d: %w", s.ID, err))
	}
	start := x.log.n
	if ref == 0 {
		var err error
		if ref, err = t.newSet(s, x.version); err != nil {
			return x.refuse(0, err)
		}
		x.note(didSet, ref)
	}
	want := make(map[Member]struct{}, len(members))
	for _, m := range members {
		want[m] = struct{}{}
	}
	t.eachMember(ref, func(at uint32) {
		m := t.memberAt(at)
		if _, ok := want[m]; ok {
			delete(want, m)
			return
		}
		x.dropMember(ref, at)
	})
	for _, m := range members {
		if _, ok := want[m]; ok {
			delete(want, m)
			if err := x.addMember(ref, m); err != nil {
				x.undoTo(start)
				return err
			}
		}
	}
	return nil
}

// AddMembers adds members to a set; those that it has may be among them.
func (x *Txn) AddMembers(id SetID, members ...Member) error {
	ref, err := x.set(id, len(members))
	start := x.log.n
	if err == nil {
		if err = x.t.checkMembers(x.t.declared(ref), ref, members); err != nil {
			return x.refuse(0, fmt.Errorf("set %d: %w", id, err))
		}
	}
	for i := 0; i < len(members) && err == nil; i++ {
		if x.t.findMember(ref, members[i]) == 0 {
			err = x.addMember(ref, members[i])
		}
	}
	if err != nil {
		x.undoTo(start)
	}
	return err
}

// DelMembers takes members from a set; some may be gone already.
func (x *Txn) DelMembers(id SetID, members ...Member) error {
	ref, err := x.set(id, len(members))
	if err != nil {
		return err
	}
	for _, m := range members {
		if at := x.t.findMember(ref, m); at != 0 {
			x.dropMember(ref, at)
		}
	}
	return nil
}

// set returns a set that is there, if n things can be noted.
func (x *Txn) set(id SetID, n int) (uint32, error) {
	ref, err := x.t.findSet(id), x.room(n)
	if ref == 0 {
		err = ErrUnknown
	}
	if err != nil {
		return 0, x.refuse(0, fmt.Errorf("set %d: %w", id, err))
	}
	return ref, nil
}

// addMember adds one member that is not there. One that the transaction has
// removed is kept.
func (x *Txn) addMember(set uint32, m Member) error {
	t := x.t
	if at := t.memberGone(set, m, x.version); at != 0 {
		t.mem.store(at+memberGone, never)
		if x.kept == nil {
			x.kept = make(map[uint32]struct{})
		}
		x.kept[at] = struct{}{}
		x.note(didKeepMember, at)
		t.touchMember(set, m)
		return nil
	}
	at, err := t.addMember(set, m, x.version)
	if err != nil {
		return x.refuse(0, fmt.Errorf("set %d: %w", uint32(t.mem.words[set+setID]), err))
	}
	x.note(didMember, at)
	t.touchMember(set, m)
	return nil
}

// dropMember removes one.
func (x *Txn) dropMember(set, at uint32) {
	x.t.mem.store(at+memberGone, x.version)
	x.note(didDropMember, at)
	x.t.touchMember(set, x.t.memberAt(at))
}

// RemoveSet removes a set that no rule refers to.
func (x *Txn) RemoveSet(id SetID) error {
	ref, err := x.set(id, 1)
	if err != nil {
		return err
	}
	if n := x.t.mem.words[ref+setUses]; n > 0 {
		return x.refuse(0, fmt.Errorf("set %d: %w by %d rules", id, ErrInUse, n))
	}
	if err := x.room(1 + int(x.t.mem.words[ref+setMembers]>>32)); err != nil {
		return x.refuse(0, fmt.Errorf("set %d: %w", id, err))
	}
	x.t.eachMember(ref, func(at uint32) { x.dropMember(ref, at) })
	x.t.mem.words[ref+setVersion] = never
	x.note(didDropSet, ref)
	return nil
}

// SetGroup makes datapaths the members of a group, which is made if it is not
// there. Rules may name the group from now on.
func (x *Txn) SetGroup(id GroupID, datapaths []uint64) error {
	if id == 0 {
		return x.refuse(0, fmt.Errorf("group id is 0"))
	}
	if x.t.findGroup(id) == 0 {
		g := uint32(0)
		if x.room(1) == nil {
			g = x.t.group(id)
		}
		if g == 0 {
			return x.refuse(0, fmt.Errorf("group %d: %w", id, ErrFull))
		}
		x.note(didGroup, g)
	}
	if x.groups == nil {
		x.groups = map[GroupID][]uint64{}
	}
	x.groups[id] = append([]uint64{}, datapaths...)
	return nil
}

// RemoveGroup removes a group that no rule is for.
func (x *Txn) RemoveGroup(id GroupID) error {
	g := x.t.findGroup(id)
	if members, ok := x.groups[id]; g == 0 || ok && members == nil {
		return x.refuse(0, fmt.Errorf("group %d: %w", id, ErrUnknown))
	}
	if n := x.t.mem.words[g+groupRules]; n > 0 {
		return x.refuse(0, fmt.Errorf("group %d: %w by %d rules", id, ErrInUse, n))
	}
	if x.groups == nil {
		x.groups = map[GroupID][]uint64{}
	}
	x.groups[id] = nil
	return nil
}

// setObject gives an object a new state.
func (x *Txn) setObject(kind uint64, id uint32, data []uint64, err error) error {
	t := x.t
	if err == nil {
		err = x.room(2)
	}
	if err != nil {
		return x.refuse(0, fmt.Errorf("%s %d: %w", kindNames[kind], id, err))
	}
	old := uint32(0)
	if obj := t.findObject(kind, id); obj != 0 {
		old = t.current(obj)
	}
	s := t.addState(kind, id, data, x.version)
	if s == 0 {
		return x.refuse(0, fmt.Errorf("%s %d: %w", kindNames[kind], id, ErrFull))
	}
	t.useState(s, true)
	x.note(didState, s)
	if old != 0 {
		x.dropState(old)
	}
	x.touchObject(kind, id)
	return nil
}

// dropState ends a state.
func (x *Txn) dropState(s uint32) {
	x.t.endState(s, x.version)
	x.t.useState(s, false)
	x.note(didDropState, s)
}

// removeObject removes an object that nothing refers to.
func (x *Txn) removeObject(kind uint64, id uint32) error {
	t := x.t
	obj := t.findObject(kind, id)
	if obj == 0 || t.current(obj) == 0 {
		return x.refuse(0, fmt.Errorf("%s %d: %w", kindNames[kind], id, ErrUnknown))
	}
	if n := t.mem.words[obj+objectUses]; n > 0 {
		return x.refuse(0, fmt.Errorf("%s %d: %w by %d rules", kindNames[kind], id, ErrInUse, n))
	}
	if err := x.room(1); err != nil {
		return x.refuse(0, fmt.Errorf("%s %d: %w", kindNames[kind], id, err))
	}
	x.dropState(t.current(obj))
	x.touchObject(kind, id)
	return nil
}

// touchObject notes a change of an object. Programs name meters and flood
// lists by number, so they stay right.
func (x *Txn) touchObject(kind uint64, id uint32) {
	switch kind {
	case objSelect:
		x.t.touch(change{region: x.t.findObject(kind, id)})
	case objEntry:
		x.t.touch(change{region: regionEntries, n: 1, words: [4]uint8{WordIn}, value: [4]uint64{uint64(id) << 32}, mask: [4]uint64{0xffffffff << 32}})
	}
}

// useState counts what a select group's actions name up or down.
func (t *Tables) useState(s uint32, up bool) {
	obj := uint32(t.mem.words[s+stateOwner])
	if t.mem.words[obj+objectID]>>32 != objSelect {
		return
	}
	d := t.data(s)
	d = d[1+d[0]:]
	n := d[0]
	d = d[1:]
	for range n {
		size := d[0] >> 48
		t.useObjects(d[1:1+size], up)
		d = d[1+size:]
	}
}

// SetSelect makes a select group, or puts it in the place of one.
func (x *Txn) SetSelect(s *Select) error {
	data, err := encodeSelect(s)
	for i := range s.Buckets {
		if err == nil {
			err = x.t.checkNamed(s.Buckets[i].Actions)
		}
	}
	if err == nil {
		var k Key
		for i := range s.Buckets {
			addWritten(&k, s.Buckets[i].Actions)
		}
		x.noteSelectWritten(&k)
	}
	return x.setObject(objSelect, uint32(s.ID), data, err)
}

// noteSelectWritten adds what select groups write. If that is more than before,
// all paths are ended.
func (x *Txn) noteSelectWritten(k *Key) {
	for w, bits := range k {
		if old := x.t.selectWritten[w]; bits&^old != 0 {
			atomic.StoreUint64(&x.t.selectWritten[w], old|bits)
			x.t.touchAll(regionEntries)
		}
	}
}

// RemoveSelect removes a select group that no rule refers to.
func (x *Txn) RemoveSelect(id SelectID) error { return x.removeObject(objSelect, uint32(id)) }

// SetMeter makes a meter, or puts it in the place of one.
func (x *Txn) SetMeter(m *Meter) error {
	data, err := encodeMeter(m)
	return x.setObject(objMeter, uint32(m.ID), data, err)
}

// RemoveMeter removes a meter that no rule refers to.
func (x *Txn) RemoveMeter(id MeterID) error { return x.removeObject(objMeter, uint32(id)) }

// SetFlood makes ports the ones of a flood list, which is made if it is not
// there.
func (x *Txn) SetFlood(id FloodID, ports []uint32) error {
	data := make([]uint64, len(ports))
	for i, p := range ports {
		data[i] = uint64(p)
	}
	return x.setObject(objFlood, uint32(id), data, nil)
}

// RemoveFlood removes a flood list that no rule refers to.
func (x *Txn) RemoveFlood(id FloodID) error { return x.removeObject(objFlood, uint32(id)) }

// SetEntry says where packets of a port begin.
func (x *Txn) SetEntry(e *Entry) error {
	data, err := encodeEntry(e)
	return x.setObject(objEntry, e.Port, data, err)
}

// RemoveEntry makes packets of a port begin nowhere: they are dropped.
func (x *Txn) RemoveEntry(port uint32) error { return x.removeObject(objEntry, port) }

// Flood returns the ports of a flood list in the version of the walker's last
// walk or of now, whichever is later. They hold until Quiet.
func (w *Walker) Flood(id FloodID) []uint64 {
	t := w.t
	if obj := t.findObject(objFlood, uint32(id)); obj != 0 {
		if s := t.stateAt(obj, t.version.Load()); s != 0 {
			return t.data(s)
		}
	}
	return nil
}

// Meter returns a meter as it is in force.
func (w *Walker) Meter(id MeterID) (Meter, bool) {
	t := w.t
	if obj := t.findObject(objMeter, uint32(id)); obj != 0 {
		if s := t.stateAt(obj, t.version.Load()); s != 0 {
			return decodeMeter(id, t.data(s)), true
		}
	}
	return Meter{}, false
}
