package roster

import (
	"os"
	"slices"
	"strings"
	"testing"

	"millrace/control/egress/l3"
)

const head = "private_key: server.key\nport: 51820\naddresses: [10.99.0.1, 'fd99::1']\n"

func TestParse(t *testing.T) {
	key := l3.NewKey().Public().String()
	r, err := Parse([]byte(head+`
between_nodes: true
nodes:
- {name: n1, keys: [`+key+`, `+key+`], prefixes: [10.0.0.0/24, 'fd00::/64']}
operators:
- {name: op, keys: [`+key+`], prefixes: [10.99.0.50/32]}
`), "/etc/millrace/server.yaml")
	if err != nil {
		t.Fatal(err)
	}
	nodes, operators, err := r.Peers()
	if err != nil {
		t.Fatal(err)
	}
	if r.PrivateKey != "/etc/millrace/server.key" || r.Port != 51820 || len(r.Addresses) != 2 || r.MTU != l3.DefaultMTU || !r.BetweenNodes || r.Device != "" {
		t.Errorf("%+v", r)
	}
	if len(nodes) != 1 || nodes[0].Name != "n1" || len(nodes[0].Keys) != 2 || nodes[0].Keys[0].String() != key || len(nodes[0].Prefixes) != 2 || nodes[0].Patience >= operators[0].Patience {
		t.Errorf("%+v, %+v", nodes, operators)
	}
}

func TestBad(t *testing.T) {
	for text, want := range map[string]string{
		"":               "private_key",
		"private_key: a": "port",
		"private_key: yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\nport: 1\naddresses: [10.99.0.1]": "private_key: it is given itself",
		"private_key: a\nport: 1": "addresses",
		head + "mtu: 1279":        "mtu: 1279",
		head + "node: []":         "field node not found",
		head + "port: 2":          "already",
		head + "addresses: [x]":   "already",
		"port: 70000":             "cannot unmarshal",
		"addresses: [300.1.1.1]":  "300.1.1.1",
		head + "nodes: [{name: a, prefixes: [10.0.0.0/33]}]":       "10.0.0.0/33",
		"private_key: a\nport: 1\naddresses: ['']":                 "addresses: invalid IP",
		"private_key: a\nport: 1\naddresses: ['fe80::1%eth0']":     "addresses: fe80::1%eth0",
		"private_key: a\nport: 1\naddresses: [10.0.0.1, 10.0.0.1]": "twice",
	} {
		if _, err := Parse([]byte(text), "f"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
	r, err := Parse([]byte(head+"operators: [{name: alice, keys: [abc]}]"), "f")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Peers(); err == nil || !strings.Contains(err.Error(), "operators: alice") {
		t.Errorf("a bad key: %v", err)
	}
	if r, err = Parse([]byte(head+"operators: [{name: alice, prefixes: [10.99.0.0/24]}]"), "f"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Peers(); err == nil || !strings.Contains(err.Error(), "alice: prefix 10.99.0.0/24 holds the server's own address") {
		t.Errorf("the server's address: %v", err)
	}
}

// TestUnlike: what takes a restart is told.
func TestUnlike(t *testing.T) {
	parse := func(text string) *Roster {
		r, err := Parse([]byte(text), "f")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := parse(head)
	if names := parse(head + "between_nodes: true").Unlike(r); names != nil {
		t.Errorf("%v for what is taken up", names)
	}
	other := parse("private_key: other\nport: 1\naddresses: [10.99.0.1]\ndevice: d\nmtu: 1400\n")
	if names := other.Unlike(r); !slices.Equal(names, []string{"addresses", "device", "mtu", "port"}) {
		t.Errorf("%v", names)
	}
}

// FuzzParse: any file is a roster or an error.
func FuzzParse(f *testing.F) {
	f.Add(head + "nodes: [{name: a, keys: [b], prefixes: [10.0.0.0/8]}]")
	f.Add("{")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse([]byte(text), os.DevNull)
		if err != nil {
			return
		}
		if _, _, err := r.Peers(); err == nil && r.Port == 0 {
			t.Errorf("%q: %+v", text, r)
		}
	})
}
