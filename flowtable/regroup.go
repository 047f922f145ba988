package flowtable

import "slices"

// A regroup is a group that is about to get other members, or to go.
type regroup struct {
	group  uint32
	goes   bool
	joined []uint64 // datapaths that were no members before
	left   []uint64 // and those that are none afterwards
	block  uint32   // all members, once there is room for it
}

// regroup prepares a group to have these members; nil: to go.
func (t *Tables) regroup(g uint32, datapaths []uint64) (r regroup, now []uint64) {
	now = slices.Clone(datapaths)
	slices.Sort(now)
	now = slices.Compact(now)
	old := t.membersOf(g)
	r = regroup{group: g, goes: datapaths == nil, joined: without(now, old), left: without(old, now)}
	return r, now
}

// without returns what is in a and not in b, which are in order.
func without(a, b []uint64) (out []uint64) {
	for _, v := range a {
		if _, ok := slices.BinarySearch(b, v); !ok {
			out = append(out, v)
		}
	}
	return out
}

// joinAll does of a regroup what may find no memory. UnjoinAll takes it back.
func (t *Tables) joinAll(r *regroup, now []uint64, version uint64) bool {
	if !t.mem.promise(len(r.joined) + len(r.left) + 1) {
		return false
	}
	for _, id := range r.joined {
		if !t.join(r.group, t.datapath(id), version) {
			return false
		}
	}
	if r.goes {
		return true
	}
	if r.block = t.mem.alloc(memDatapaths, 1+len(now)); r.block == 0 {
		return false
	}
	t.mem.words[r.block] = uint64(len(now))
	copy(t.mem.words[r.block+1:], now)
	return true
}

// unjoinAll undoes joinAll, also if only a part of it was done.
func (t *Tables) unjoinAll(r *regroup, version uint64) {
	if r.block != 0 {
		t.mem.release(memDatapaths, r.block, 1+int(t.mem.words[r.block]))
	}
	for _, id := range r.joined {
		if dp := t.findDatapath(id); dp != 0 {
			t.unjoin(r.group, dp, version)
		}
	}
}

// leaveAll does the rest of a regroup.
func (t *Tables) leaveAll(r *regroup, version uint64) {
	if r.goes {
		t.dropGroup(r.group, version)
		return
	}
	for _, id := range r.left {
		t.leave(r.group, t.findDatapath(id), version)
	}
	at := r.group + groupMembers
	if b := uint32(t.mem.words[at]); b != 0 {
		t.mem.release(memDatapaths, b, 1+int(t.mem.words[b])) // only the writer reads it
	}
	t.mem.words[at] = uint64(r.block)
}
