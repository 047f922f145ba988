package conntrack

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

// client packs a Client.
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

// Affinity returns the backend that a client was given, if it is remembered
// still; that makes it remembered for another timeout. The answer holds while
// cell has the value want.
func (w *Worker) Affinity(c *Client, now uint64) (b Backend, cell, want uint32, ok bool) {
	a, k := &w.t.affinity, c.key()
	h := a.seed.hash(&k)
	cell = w.t.affinityCell(h)
	want = w.t.cell(cell)
	at, l := a.locate(h)
	defer l.Unlock()
	for i := range a.sets[at] {
		e := &a.sets[at][i]
		if e.deadline != 0 && e.client == k && int32(tickOf(now)-e.deadline) < 0 {
			e.deadline = tickOf(now) + e.timeout
			return Backend{e.backend, e.port}, cell, want, true
		}
	}
	return Backend{}, cell, want, false
}

// SetAffinity remembers a client's backend until it was not asked for during so
// many seconds.
func (w *Worker) SetAffinity(c *Client, b Backend, seconds uint32, now uint64) {
	a, k := &w.t.affinity, c.key()
	h := a.seed.hash(&k)
	at, l := a.locate(h)
	defer l.Unlock()
	set := &a.sets[at]
	e := &set[0]
	for i := range set {
		if set[i].client == k && set[i].deadline != 0 {
			e = &set[i]
			break
		}
		if e.deadline != 0 && (set[i].deadline == 0 || int32(set[i].deadline-e.deadline) < 0) {
			e = &set[i]
		}
	}
	life := ticks(min(max(seconds, 1), timeoutMax))
	fresh := entry{client: k, backend: b.IP, port: b.Port, deadline: tickOf(now) + life, timeout: life}
	moved := e.deadline != 0 && e.client != k
	old := a.seed.hash(&e.client)
	*e = fresh
	w.t.move(w.t.affinityCell(h))
	if moved {
		w.t.move(w.t.affinityCell(old))
	}
}

// DropAffinity forgets the clients for whom drop reports true, such as those of a
// backend that has gone, and returns how many. It is for control.
func (t *Table) DropAffinity(drop func(Client, Backend) bool) (n int) {
	a := &t.affinity
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
