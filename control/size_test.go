package control

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/dataplane"
)

// TestLongListing: rows may give many ports nearly all VLANs, which makes a
// long listing. The next control reads it all the same.
func TestLongListing(t *testing.T) {
	r := newRig(t)
	r.stop("control")
	var trunks []uint16
	for v := uint16(1); v < 4094; v++ {
		trunks = append(trunks, v)
	}
	const n = 1000 // of 8 kB each
	specs := make([]dataplane.PortSpec, n)
	for i := range specs {
		specs[i] = dataplane.PortSpec{Bridge: "br0", Name: fmt.Sprint("p", i), Type: dataplane.TypeVhostServer, Trunks: trunks}
	}
	for _, added := range r.sw.AddPorts(specs) {
		if added.Err != nil {
			t.Fatal(added.Err)
		}
	}
	s, err := begin(t.Context(), r.dir, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer s.client.Close()
	if got := len(s.ports); got != n {
		t.Errorf("%d ports, want %d", got, n)
	}
}

// TestManyResults: what comes of very many rows goes back in several
// transactions: one of all would be larger than a server takes. The last row
// has its result before cur_cfg says so.
func TestManyResults(t *testing.T) {
	r := newEmbeddedRig(t)
	r.vsctl("add-br", "br0")
	const n = opsMax + 1 // and as many Port rows
	var ops []string
	var ports []string
	for i := range n {
		ops = append(ops, fmt.Sprintf(`{"op":"insert","table":"Interface","uuid-name":"i%d","row":{"name":"bad%d","type":"gre"}}`, i, i),
			fmt.Sprintf(`{"op":"insert","table":"Port","uuid-name":"p%d","row":{"name":"bad%d","interfaces":["named-uuid","i%d"]}}`, i, i, i))
		ports = append(ports, fmt.Sprintf(`["named-uuid","p%d"]`, i))
	}
	ops = append(ops, fmt.Sprintf(`{"op":"mutate","table":"Bridge","where":[["name","==","br0"]],"mutations":[["ports","insert",["set",[%s]]]]}`, strings.Join(ports, ",")),
		`{"op":"mutate","table":"Open_vSwitch","where":[],"mutations":[["next_cfg","+=",1]]}`)
	var before Status
	r.until("a status", func() bool {
		var err error
		before, err = ReadStatus(r.dir)
		return err == nil
	})
	r.transact(ops)
	r.vsctl("--no-wait", "wait-until", "open_vswitch", ".", "cur_cfg="+r.vsctl("--no-wait", "get", "open_vswitch", ".", "next_cfg"))
	for _, name := range []string{"bad0", fmt.Sprint("bad", n-1)} {
		if got := r.get(name, "error"); !strings.Contains(got, "not supported yet") {
			t.Errorf("error of %s: %s", name, got)
		}
	}
	r.until("status says so", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && s.Counters.BadRows >= n && s.Counters.Transactions >= before.Counters.Transactions+3 // Interface and Port rows
	})
}

// transact makes a transaction of these operations.
func (r *rig) transact(ops []string) {
	r.t.Helper()
	c, err := net.Dial("unix", r.file("ovs.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, `{"method":"transact","id":1,"params":["Open_vSwitch",%s]}`, strings.Join(ops, ",")); err != nil {
		r.t.Fatal(err)
	}
	var answer struct{ Result []map[string]any }
	if err := json.NewDecoder(c).Decode(&answer); err != nil || len(answer.Result) != len(ops) {
		r.t.Fatalf("transaction: %d results, %v", len(answer.Result), err)
	}
}
