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

// TestHairpins checks which packets go back to where they come from.
func TestHairpins(t *testing.T) {
	table, w := newTable(t, small(64))
	vip := addr("10.96.0.1")
	h := Hairpin{Datapath: 7, VIP: vip, VIPPort: 80, Backend: addr("10.0.0.9"), Port: 8080, Source: vip, Proto: ProtoTCP}
	there := tuple4(ProtoTCP, "10.0.0.9", 4000, "10.0.0.9", 8080)
	back := tuple4(ProtoTCP, "10.0.0.9", 8080, "10.96.0.1", 4000)
	if _, _, _, ok := w.IsHairpin(7, &there, vip, 80); ok {
		t.Fatal("a hairpin of an empty table")
	}
	table.SetHairpins([]Hairpin{h, {Datapath: 7, VIP: vip, Backend: addr("10.0.0.7"), Source: addr("169.254.0.1")}})
	cell, want, ok := w.IsHairpinReply(7, &back)
	if ok {
		t.Error("a reply before there was a hairpin")
	}
	if got, _, _, ok := w.IsHairpin(7, &there, vip, 80); !ok || got != h {
		t.Errorf("got %+v, %v", got, ok)
	}
	if table.cell(cell) == want {
		t.Error("the cell did not move")
	}
	if _, _, ok := w.IsHairpinReply(7, &back); !ok {
		t.Error("the reply is not known")
	}
	for name, bad := range map[string]Tuple{
		"another port":    tuple4(ProtoTCP, "10.0.0.9", 4000, "10.0.0.9", 8081),
		"another client":  tuple4(ProtoTCP, "10.0.0.8", 4000, "10.0.0.9", 8080),
		"another backend": tuple4(ProtoTCP, "10.0.0.8", 4000, "10.0.0.8", 8080),
	} {
		if _, _, _, ok := w.IsHairpin(7, &bad, vip, 80); ok {
			t.Errorf("%s is one", name)
		}
	}
	if _, _, _, ok := w.IsHairpin(8, &there, vip, 80); ok {
		t.Error("one of another datapath")
	}
	any := tuple4(ProtoUDP, "10.0.0.7", 5, "10.0.0.7", 6)
	if got, _, _, ok := w.IsHairpin(7, &any, vip, 99); !ok || got.Source != addr("169.254.0.1") {
		t.Errorf("a load balancer without ports: %+v, %v", got, ok)
	}
	table.SetHairpins([]Hairpin{h})
	if _, _, ok := w.IsHairpinReply(7, &back); !ok {
		t.Error("what was used is forgotten with a change of others")
	}
	table.SetHairpins(nil)
	if _, _, ok := w.IsHairpinReply(7, &back); ok {
		t.Error("the reply of what has gone")
	}
}
