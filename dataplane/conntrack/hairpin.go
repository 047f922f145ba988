package conntrack

import "sync/atomic"

// A Hairpin is a backend of a load balancer that may be given its own
// connections: OVN's chk_lb_hairpin and its kin. Ports are zero if the load
// balancer has none.
type Hairpin struct {
	Datapath uint32
	VIP      Addr
	VIPPort  uint16
	Backend  Addr
	Port     uint16 // of the backend
	Source   Addr   // what the client looks like to the backend: the VIP, or hairpin_snat_ip
	Proto    uint8  // 0 if it has no ports
	Six      bool
}

// hairpinKey names what chk_lb_hairpin looks at, or, without VIP, what
// chk_lb_hairpin_reply does.
type hairpinKey struct {
	datapath      uint32
	from, to, vip Addr
	port, vipPort uint16
	proto         uint8
	six           bool
}

// A hairpin is one of those that control has set.
type hairpin struct {
	Hairpin
	used atomic.Bool // a connection has gone this way: its replies are known
}

// hairpinMaps are what control has set, all at once.
type hairpinMaps struct {
	there map[hairpinKey]*hairpin
	back  map[hairpinKey]*hairpin
}

// hairpins are the load balancers whose backends may talk to themselves. They
// are few, and asked by walks only.
type hairpins struct{ maps atomic.Pointer[hairpinMaps] }

func (h *Hairpin) there() hairpinKey {
	return hairpinKey{h.Datapath, h.Backend, h.Backend, h.VIP, h.Port, h.VIPPort, h.Proto, h.Six}
}

func (h *Hairpin) back() hairpinKey {
	return hairpinKey{datapath: h.Datapath, from: h.Backend, to: h.Source, port: h.Port, proto: h.Proto, six: h.Six}
}

// SetHairpins replaces all hairpins. Those that were used and are there still
// stay used. It is for control, one at a time.
func (t *Table) SetHairpins(list []Hairpin) {
	old := t.hairpins.maps.Load()
	m := &hairpinMaps{make(map[hairpinKey]*hairpin, len(list)), make(map[hairpinKey]*hairpin, len(list))}
	for _, h := range list {
		n := &hairpin{Hairpin: h}
		if old != nil {
			if was := old.there[h.there()]; was != nil && was.Hairpin == h {
				n = was
			}
		}
		m.there[h.there()], m.back[h.back()] = n, n
	}
	t.hairpins.maps.Store(m)
	t.move(t.hairpinCell())
}

// hairpinCell returns the cell that moves when a hairpin comes, goes or is used
// for the first time.
func (t *Table) hairpinCell() uint32 { return uint32(CellsNeeded(t.options)) - 1 }

// IsHairpin reports whether a packet to a backend comes from the same backend,
// by way of a VIP: the destination that its connection had first. If so, the
// replies are known from now on, and found is what to translate its source to.
// The caller has checked that the mark says the connection is load balanced.
// The answer holds while cell has the value want.
func (w *Worker) IsHairpin(datapath uint32, p *Tuple, vip Addr, vipPort uint16) (found Hairpin, cell, want uint32, ok bool) {
	cell = w.t.hairpinCell()
	want = w.t.cell(cell)
	m := w.t.hairpins.maps.Load()
	if m == nil || p.Src != p.Dst {
		return Hairpin{}, cell, want, false
	}
	k := hairpinKey{datapath, p.Src, p.Dst, vip, p.DstPort, vipPort, p.Proto, p.Six}
	h := m.there[k]
	if h == nil {
		k.port, k.vipPort, k.proto = 0, 0, 0
		if h = m.there[k]; h == nil {
			return Hairpin{}, cell, want, false
		}
	}
	if !h.used.Swap(true) {
		w.t.move(cell)
	}
	return h.Hairpin, cell, want, true
}

// IsHairpinReply reports whether a packet answers one for which IsHairpin said
// yes. The answer holds while cell has the value want.
func (w *Worker) IsHairpinReply(datapath uint32, p *Tuple) (cell, want uint32, ok bool) {
	cell = w.t.hairpinCell()
	want = w.t.cell(cell)
	m := w.t.hairpins.maps.Load()
	if m == nil {
		return cell, want, false
	}
	k := hairpinKey{datapath: datapath, from: p.Src, to: p.Dst, port: p.SrcPort, proto: p.Proto, six: p.Six}
	h := m.back[k]
	if h == nil {
		k.port, k.proto = 0, 0
		h = m.back[k]
	}
	return cell, want, h != nil && h.used.Load()
}
