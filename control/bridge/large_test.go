package bridge

import (
	"fmt"
	"testing"

	"millrace/control/ovsdb/model"
)

// large returns rows of a bridge, to which others add.
func large() Rows {
	return Rows{Root: &model.OpenvSwitch{}, Bridges: map[string]*model.Bridge{}, Ports: map[string]*model.Port{}, Interfaces: map[string]*model.Interface{}}
}

// bridge adds a bridge.
func (r *Rows) bridge(name string) *model.Bridge {
	b := &model.Bridge{UUID: "b-" + name, Name: name}
	r.Bridges[b.UUID] = b
	r.Root.Bridges = append(r.Root.Bridges, b.UUID)
	return b
}

// port adds a port with an interface of a type.
func (r *Rows) port(b *model.Bridge, name, kind string, options map[string]string) {
	i := &model.Interface{UUID: "i-" + name, Name: name, Type: kind, Options: options}
	p := &model.Port{UUID: "p-" + name, Name: name, Interfaces: []string{i.UUID}}
	r.Interfaces[i.UUID], r.Ports[p.UUID] = i, p
	b.Ports = append(b.Ports, p.UUID)
}

// TestManyUnknownOptions: a row with any number of unknown options has an error
// that can be read, and that fits a transaction with those of others.
func TestManyUnknownOptions(t *testing.T) {
	rows, options := large(), map[string]string{}
	for i := range 100_000 {
		options[fmt.Sprint("option-", i)] = "x"
	}
	rows.port(rows.bridge("br0"), "p", TypeVhostServer, options)
	s := From(rows, Policy{RunDir: "/run/x"})
	if n := len(s.Interfaces[0].Error); n > 2000 || n == 0 || len(s.Errors) > 20 || !s.Interfaces[0].Wanted {
		t.Errorf("error of %d bytes, %d errors, %+v", n, len(s.Errors), s.Interfaces[0].Wanted)
	}
}

// TestDeepForest: to find where frames can pass takes little also where bridges
// were joined to a long chain: here one step for each of 2000 bridges, 2000
// times, would be four million.
func TestDeepForest(t *testing.T) {
	const n = 2000
	f := forest[int]{}
	for i := range n {
		f.join(i, i+1)
	}
	walk := func() (steps int) {
		for at := 0; f[at] != 0; at = f[at] {
			steps++
		}
		return steps
	}
	long := walk()
	for range 12 {
		if got := f.root(0); got != n {
			t.Fatalf("root of 0 is %d, want %d", got, n)
		}
	}
	if short := walk(); long != n || short > 2 {
		t.Errorf("the way is of %d steps, was %d", short, long)
	}
}

// TestLongLoop: of patch ports round a hundred bridges, the pair that closes the loop
// is refused.
func TestLongLoop(t *testing.T) {
	const n = 100
	rows := large()
	var bridges []*model.Bridge
	for i := range n {
		bridges = append(bridges, rows.bridge(fmt.Sprintf("br%03d", i)))
	}
	pair := func(k, i, j int) {
		a, b := fmt.Sprintf("a%05d", k), fmt.Sprintf("b%05d", k)
		rows.port(bridges[i], a, TypePatch, map[string]string{"peer": b})
		rows.port(bridges[j], b, TypePatch, map[string]string{"peer": a})
	}
	for i := range n - 1 {
		pair(i, i, i+1)
	}
	pair(n, 0, n-1)
	s := From(rows, Policy{RunDir: "/run/x"})
	if len(s.Errors) != 2 {
		t.Errorf("%d errors, want those of the pair that closes the loop", len(s.Errors))
	}
}
