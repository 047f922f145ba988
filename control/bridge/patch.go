package bridge

// patches holds patch ports to one another: each must name the one that names
// it, and together they must not close a loop.
func (r *reader) patches() {
	ends := map[string]*found{}
	for _, f := range r.found {
		ends[f.row.Name] = f
	}
	var pairs [][2]*found
	for _, f := range r.found {
		if f.fatal || f.row.Type != TypePatch {
			continue
		}
		o := ends[f.want.Peer]
		switch {
		case o == nil: // it may come
		case o.row.Type != TypePatch:
			r.warn(f, "options", conflict("peer %s is of type %q, not a patch port", short(o.row.Name), short(o.row.Type)))
		case o.row.Options["peer"] == "":
			r.warn(f, "options", conflict("peer %s names no peer", short(o.row.Name)))
		case o.row.Options["peer"] != f.row.Name:
			r.warn(f, "options", conflict("peer %s has peer %s, not this port", short(o.row.Name), short(o.row.Options["peer"])))
		case o.bridge == f.bridge:
			r.refuse(f, "options", conflict("peer %s is on the same bridge", short(o.row.Name)))
		case !o.fatal && f.row.Name < o.row.Name:
			pairs = append(pairs, [2]*found{f, o})
		}
	}
	r.loops(pairs)
}

// A place is a VLAN of a bridge.
type place struct {
	bridge string
	vlan   uint16
}

// A forest knows which places frames can already pass between.
type forest[T comparable] map[T]T

func (f forest[T]) root(t T) T {
	for {
		up, ok := f[t]
		if !ok || up == t {
			return t
		}
		if top, ok := f[up]; ok {
			f[t] = top // so that no way is long twice
		}
		t = up
	}
}

// join connects two places, and reports whether they were connected already.
func (f forest[T]) join(a, b T) (already bool) {
	a, b = f.root(a), f.root(b)
	if a != b {
		f[a] = b
	}
	return a == b
}

// loops refuses the pair, in order of names, with which frames of some VLAN
// could go round in circles. Bridges learn and have no spanning tree yet.
func (r *reader) loops(pairs [][2]*found) {
	bridges := forest[string]{}
	circle := false
	for _, p := range pairs {
		circle = bridges.join(p[0].bridge.UUID, p[1].bridge.UUID) || circle
	}
	if !circle {
		return // whatever their VLANs
	}
	places := forest[place]{}
	for _, p := range pairs {
		if vlan, loop := connect(places, p[0], p[1]); loop {
			for i, f := range p {
				r.refuse(f, "options", conflict("with peer %s, patch ports make a loop of bridges in VLAN %d: frames would circle", short(p[1-i].row.Name), vlan))
			}
		}
	}
}

// connect joins what two patch ports connect, unless that closes a loop.
func connect(places forest[place], a, b *found) (vlan uint16, loop bool) {
	var pairs [][2]place
	for v := range uint16(VLANMax + 1) {
		w, ok := across(a.want, b.want, v)
		if !ok {
			continue
		}
		x, y := place{a.bridge.UUID, v}, place{b.bridge.UUID, w}
		if places.root(x) == places.root(y) {
			return v, true
		}
		pairs = append(pairs, [2]place{x, y})
	}
	for _, p := range pairs {
		places.join(p[0], p[1])
	}
	return 0, false
}

// across returns the VLAN in which a frame of VLAN v arrives that leaves by a
// and comes in by b.
func across(a, b Port, v uint16) (uint16, bool) {
	if !a.carries(v) {
		return 0, false
	}
	if a.Mode == Access || a.Mode == NativeUntagged && v == a.Tag {
		v = 0
	}
	switch {
	case b.Mode == Access:
		return b.Tag, v == 0
	case v == 0 && b.Mode != Trunk:
		return b.Tag, true
	}
	return v, b.carries(v)
}

// carries reports whether frames of VLAN v leave by the port.
func (p Port) carries(v uint16) bool {
	if p.Mode == Access {
		return v == p.Tag
	}
	if p.Mode != Trunk && v == p.Tag || len(p.Trunks) == 0 {
		return true
	}
	for _, t := range p.Trunks {
		if t == v {
			return true
		}
	}
	return false
}
