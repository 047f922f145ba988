package conntrack

import "sync/atomic"

// A Client names whose backend is remembered: OVN's chk_lb_aff and commit_lb_aff.
type Client struct {
	Datapath uint32
	IP       Addr // of the client
	VIP      Addr
	Port     uint16 // of the VIP
	Proto    uint8
	Six      bool
}

// A Backend is where a client's connections go.
type Backend struct {
	IP   Addr
	Port uint16
}

// key packs a Client.
func (c *Client) key() key {
	k := key{c.IP[0], c.IP[1], c.VIP[0], c.VIP[1], uint64(c.Datapath)<<32 | uint64(c.Port)<<16 | uint64(c.Proto)<<8}
	if c.Six {
		k[4] |= 1
	}
	return k
}

// affinitySet is how many entries a set has, of which the stalest gives way.
const affinitySet = 4

// An entry remembers a client. All is under the set's lock.
type entry struct {
	client   key
	backend  Addr
	port     uint16
	deadline uint32 // tick; 0: free
	timeout  uint32 // ticks
}

// affinities remember which backend a client was given. They are asked for new
// connections only, so locks do.
type affinities struct {
	setTable
	sets [][affinitySet]entry
	used atomic.Bool // a client was remembered, ever: all sets are empty otherwise
}

// init makes room for n clients.
func (a *affinities) init(m *memory, n int) (err error) {
	a.setTable.init(n, affinitySet)
	a.sets, err = array[[affinitySet]entry](m, a.n)
	return err
}

// affinityCell returns the cell that stands for what is remembered of clients
// whose key hashes to h.
func (t *Table) affinityCell(h uint64) uint32 {
	return uint32(t.options.Capacity) + 1 + absenceCells + uint32(h>>32)%affinityCells
}

// A Memory is what keeps an answer about a client: it holds while Cell has the value Want. Ref
// names what is remembered, for TouchAffinity; 0: nothing.
type Memory struct {
	Cell, Want uint32
	Ref        uint64
}

// refOf names entry i of set at, of a client whose key hashes to h.
func refOf(at uint64, i int, h uint64) uint64 {
	return h>>32<<32 | at<<2 | uint64(i)&(affinitySet-1) | refTag
}

// refTag makes a ref differ from 0.
const refTag = 1 << 31

// isOver reports whether an entry's time is over, or it is free.
func (e *entry) isOver(tick uint32) bool {
	return e.deadline == 0 || int32(tick-e.deadline) >= 0
}

// of returns the entry of a client in a set, or nil. The set's lock is held.
func (a *affinities) of(at uint64, k *key, tick uint32) (*entry, int) {
	for i := range a.sets[at] {
		if e := &a.sets[at][i]; e.client == *k && !e.isOver(tick) {
			return e, i
		}
	}
	return nil, 0
}

// Affinity returns the backend that a client was given, if it is remembered
// still; that makes it remembered for another timeout.
func (w *Worker) Affinity(c *Client, now uint64) (b Backend, m Memory, ok bool) {
	a, k := &w.t.affinity, c.key()
	h := a.seed.hash(&k)
	m.Cell = w.t.affinityCell(h)
	m.Want = w.t.cell(m.Cell)
	at, l := a.locate(h)
	defer l.Unlock()
	e, i := a.of(at, &k, tickOf(now))
	if e == nil {
		return Backend{}, m, false
	}
	e.deadline = tickOf(now) + e.timeout
	m.Ref = refOf(at, i, h)
	return Backend{e.backend, e.port}, m, true
}

// PeekAffinity is Affinity that takes note of nothing.
func (t *Table) PeekAffinity(c *Client, now uint64) (b Backend, ok bool) {
	a, k := &t.affinity, c.key()
	at, l := a.locate(a.seed.hash(&k))
	defer l.Unlock()
	if e, _ := a.of(at, &k, tickOf(now)); e != nil {
		return Backend{e.backend, e.port}, true
	}
	return Backend{}, false
}

// TouchAffinity makes a client that a Memory names remembered for another timeout, if it is
// still the same one: packets have gone past that nobody has asked about one by one.
func (w *Worker) TouchAffinity(ref, now uint64) {
	a := &w.t.affinity
	at := ref & (refTag - 1) >> 2
	if ref&refTag == 0 || at >= uint64(a.n) {
		return
	}
	l := &a.locks[at%setLocks]
	l.Lock()
	defer l.Unlock()
	e := &a.sets[at][ref&(affinitySet-1)]
	switch tick := tickOf(now); {
	case e.deadline == 0 || a.seed.hash(&e.client)>>32 != ref>>32:
	case e.isOver(tick):
		w.t.forgetClient(e) // they went past too late
	default:
		e.deadline = tick + e.timeout
	}
}

// affinityLeast is the least time that a client is remembered, in seconds: what has gone past
// unasked is told of once a second.
const affinityLeast = 3

// SetAffinity remembers a client's backend until it was not asked for during so
// many seconds. Who knew it already is not told again.
func (w *Worker) SetAffinity(c *Client, b Backend, seconds uint32, now uint64) Memory {
	a, k := &w.t.affinity, c.key()
	h := a.seed.hash(&k)
	at, l := a.locate(h)
	defer l.Unlock()
	if !a.used.Load() {
		a.used.Store(true)
	}
	i := a.place(at, &k)
	e := &a.sets[at][i]
	life := ticks(min(max(seconds, affinityLeast), timeoutMax))
	same := e.client == k && e.backend == b.IP && e.port == b.Port && !e.isOver(tickOf(now))
	gone, old := e.deadline != 0 && e.client != k, e.client
	*e = entry{client: k, backend: b.IP, port: b.Port, deadline: tickOf(now) + life, timeout: life}
	m := Memory{Cell: w.t.affinityCell(h), Ref: refOf(at, i, h)}
	if !same {
		w.t.move(m.Cell)
	}
	if gone {
		w.t.move(w.t.affinityCell(a.seed.hash(&old)))
	}
	m.Want = w.t.cell(m.Cell)
	return m
}

// place returns where in a set a client is or will be: in the place of the stalest, if all are
// taken. The set's lock is held.
func (a *affinities) place(at uint64, k *key) (best int) {
	set := &a.sets[at]
	for i := range set {
		e, b := &set[i], &set[best]
		if e.deadline != 0 && e.client == *k {
			return i
		}
		if b.deadline != 0 && (e.deadline == 0 || int32(e.deadline-b.deadline) < 0) {
			best = i
		}
	}
	return best
}

// DropAffinity forgets the clients for whom drop reports true, such as those of a
// backend that has gone, and returns how many. It is for control.
func (t *Table) DropAffinity(drop func(Client, Backend) bool) (n int) {
	a := &t.affinity
	if !a.used.Load() {
		return 0 // a look at sets that nobody has touched would make memory of them
	}
	for at := range a.sets {
		_, l := a.locate(uint64(at))
		for i := range a.sets[at] {
			e := &a.sets[at][i]
			if e.deadline != 0 && drop(e.client.client(), Backend{e.backend, e.port}) {
				t.forgetClient(e)
				n++
			}
		}
		l.Unlock()
	}
	return n
}

// client unpacks a key of a Client.
func (k *key) client() Client {
	return Client{Datapath: uint32(k[4] >> 32), IP: Addr{k[0], k[1]}, VIP: Addr{k[2], k[3]}, Port: uint16(k[4] >> 16), Proto: k.proto(), Six: k[4]&1 != 0}
}

// forgetClient frees an entry. The set's lock is held.
func (t *Table) forgetClient(e *entry) {
	h := t.affinity.seed.hash(&e.client)
	*e = entry{}
	t.move(t.affinityCell(h))
}

// expire forgets the clients of some sets whose time is over.
func (a *affinities) expire(t *Table, now uint32, sets int) {
	a.some(sets, func(at uint32) {
		for i := range a.sets[at] {
			if e := &a.sets[at][i]; e.deadline != 0 && int32(now-e.deadline) >= 0 {
				t.forgetClient(e)
			}
		}
	})
}
