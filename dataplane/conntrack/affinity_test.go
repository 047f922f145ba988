package conntrack

import "testing"

// TestAffinity checks what is remembered of clients, for how long, and that the
// cells tell.
func TestAffinity(t *testing.T) {
	table, w := newTable(t, small(64))
	c := Client{Datapath: 7, IP: addr("10.0.0.1"), VIP: addr("10.96.0.1"), Port: 80, Proto: ProtoTCP}
	one, two := Backend{addr("10.0.0.9"), 8080}, Backend{addr("10.0.0.8"), 8080}
	_, m, ok := w.Affinity(&c, start)
	if ok {
		t.Fatal("remembered before it was told")
	}
	w.SetAffinity(&c, one, 10, start)
	if table.cell(m.Cell) == m.Want {
		t.Error("the cell did not move")
	}
	for i := range uint64(5) { // each question makes it last
		if b, _, ok := w.Affinity(&c, start+i*9*second); !ok || b != one {
			t.Fatalf("question %d: %v, %v", i, b, ok)
		}
	}
	w.SetAffinity(&c, two, 10, start+40*second)
	if b, _, ok := w.Affinity(&c, start+41*second); !ok || b != two {
		t.Errorf("got %v, %v", b, ok)
	}
	for _, other := range []Client{{8, c.IP, c.VIP, 80, ProtoTCP, false}, {7, c.IP, c.VIP, 81, ProtoTCP, false}, {7, c.IP, c.VIP, 80, ProtoUDP, false}, {7, c.VIP, c.VIP, 80, ProtoTCP, false}} {
		if _, _, ok := w.Affinity(&other, start+41*second); ok {
			t.Errorf("%+v is remembered", other)
		}
	}
	if _, _, ok := w.Affinity(&c, start+52*second); ok {
		t.Error("remembered beyond its time")
	}
	w.SetAffinity(&c, two, 10, start)
	if n := table.DropAffinity(func(got Client, b Backend) bool { return got == c && b == two }); n != 1 {
		t.Errorf("dropped %d", n)
	}
	for i := range 500 { // more than there is room for: the stalest goes
		c.IP = Addr{1: uint64(i)}
		w.SetAffinity(&c, one, 10, start+uint64(i)*second/100)
		if _, _, ok := w.Affinity(&c, start+uint64(i)*second/100); !ok {
			t.Fatalf("client %d is not remembered", i)
		}
	}
	_, m, _ = w.Affinity(&c, start+5*second)
	sweep(table, start+60*second)
	if table.cell(m.Cell) == m.Want || table.DropAffinity(func(Client, Backend) bool { return true }) != 0 {
		t.Error("what is over was not forgotten")
	}
}

// TestLook looks connections up: nothing is made, counted or kept alive by that, and the answer holds as long as its cell does.
func TestLook(t *testing.T) {
	table, w := newTable(t, small(64))
	var v Verdict
	there := packetOf(tuple4(ProtoUDP, "10.0.0.1", 1000, "10.0.0.2", 80), 0)
	w.Look(5, &there, &v)
	cell, want := v.Cell, v.Want
	if v.State != StateTracked|StateNew || !v.Cacheable || table.Stats().Connections != 0 {
		t.Fatalf("without a connection: %+v", v)
	}
	w.Track(5, &there, start, &v)
	if r := w.Commit(5, &there, &Terms{}, start, &v); r != Created {
		t.Fatal(r)
	}
	if table.cell(cell) == want {
		t.Error("the cell did not move when the connection came")
	}
	back := packetOf(tuple4(ProtoUDP, "10.0.0.2", 80, "10.0.0.1", 1000), 0)
	for range 3 {
		w.Look(5, &back, &v)
		if v.State&(StateReply|StateEstablished|StateTracked) != StateReply|StateEstablished|StateTracked || v.Original != there.Tuple || v.Ref == 0 || !v.Cacheable {
			t.Fatalf("the reply: %+v", v)
		}
	}
	w.Look(5, &there, &v)
	if v.State&StateNew == 0 {
		t.Error("a look has counted as a reply")
	}
	c, ok := table.Lookup(5, there.Tuple, start)
	if !ok || c.Packets != [2]uint64{1, 0} {
		t.Errorf("connection %+v", c)
	}
	cell, want = v.Cell, v.Want
	table.Flush(5)
	if table.cell(cell) == want {
		t.Error("the cell did not move when the connection went")
	}
	bad := back
	bad.Bad = true
	if w.Look(5, &bad, &v); v.State != StateTracked || v.Cacheable {
		t.Errorf("bad headers: %+v", v)
	}
}

// TestTouchAffinity: what a ref names is touched while it is there, and no other client.
func TestTouchAffinity(t *testing.T) {
	table, w := newTable(t, small(64))
	c := Client{Datapath: 7, IP: addr("10.0.0.1"), VIP: addr("10.96.0.1")}
	m := w.SetAffinity(&c, Backend{IP: addr("10.0.0.9")}, 10, start)
	if again := w.SetAffinity(&c, Backend{IP: addr("10.0.0.9")}, 10, start+second); again != m {
		t.Errorf("the same once more: %+v, was %+v", again, m)
	}
	w.TouchAffinity(m.Ref, start+9*second)
	w.TouchAffinity(m.Ref^1<<40, start+17*second) // of another hash
	w.TouchAffinity(0, start+17*second)
	w.TouchAffinity(^uint64(0), start+17*second)
	if _, ok := table.PeekAffinity(&c, start+18*second); !ok {
		t.Error("forgotten too early")
	}
	if _, ok := table.PeekAffinity(&c, start+20*second); ok {
		t.Error("remembered too long")
	}
	w.TouchAffinity(m.Ref, start+21*second)
	if table.cell(m.Cell) == m.Want {
		t.Error("the cell did not move when frames came too late")
	}
	w.SetAffinity(&c, Backend{}, 1, start)
	if _, ok := table.PeekAffinity(&c, start+2*second); !ok {
		t.Error("a timeout of less than affinityLeast")
	}
}
