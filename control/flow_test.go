package control

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/control/flows"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/schema"
	"millrace/dataplane/service/switchtest"
	"millrace/flowtable"
)

// withFlows has a rig's server serve the Millrace database, too.
func withFlows(r *rig) {
	r.flows = true
	text := r.file("millrace.ovsschema")
	if err := os.WriteFile(text, []byte(schema.Millrace), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if out, err := exec.Command("ovsdb-tool", "create", r.file("flows.db"), text).CombinedOutput(); err != nil {
		r.t.Fatalf("ovsdb-tool: %v: %s", err, out)
	}
}

// newFlowRig is a rig with flows, and a bridge br0 that runs them, with ports a and b.
func newFlowRig(t testing.TB, database func(*rig)) *rig {
	t.Helper()
	r := startRig(t, func(*switchtest.Switch) {}, database, withFlows)
	r.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "other_config:millrace-pipeline=flows",
		"--", "add-port", "br0", "a", "--", "set", "interface", "a", "type=dpdkvhostuser",
		"--", "add-port", "br0", "b", "--", "set", "interface", "b", "type=dpdkvhostuser")
	return r
}

// flowDB makes a connection to the Millrace database.
func (r *rig) flowDB() *ovsdb.Caller {
	r.t.Helper()
	c, err := ovsdb.Dial(r.t.Context(), ovsdb.Config{Endpoints: []string{r.endpoint()}, Schema: flowmodel.Schema(), Tables: flowTables()})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// flow is an operation that inserts a row of Flow.
func flow(priority int, match, actions string) ovsdb.Op {
	return ovsdb.Op{"op": "insert", "table": "Flow", "row": map[string]any{"bridge": "br0", "priority": priority, "match": match, "actions": actions}}
}

// put changes the Millrace database.
func (r *rig) put(ops ...ovsdb.Op) {
	r.t.Helper()
	c := r.flowDB()
	defer c.Close()
	if _, err := c.Transact(r.t.Context(), ops...); err != nil {
		r.t.Fatal(err)
	}
}

// rows are what the rows of Flow say, by priority: "10 active", "20 refused why".
func (r *rig) rows() string {
	r.t.Helper()
	c := r.flowDB()
	defer c.Close()
	all, err := c.Rows(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, x := range all {
		if f, ok := x.Row.(*flowmodel.Flow); ok {
			s := fmt.Sprint(f.Priority)
			for _, v := range []*string{f.Status, f.Error} {
				if v != nil {
					s += " " + *v
				}
			}
			if f.NPackets > 0 {
				s += fmt.Sprintf(" n=%d/%d", f.NPackets, f.NBytes)
			}
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// say waits until the rows of Flow say something.
func (r *rig) say(want ...string) {
	r.t.Helper()
	text := strings.Join(want, "\n")
	got := ""
	defer func() {
		if r.t.Failed() {
			r.t.Logf("rows say\n%s\nwant\n%s", got, text)
		}
	}()
	r.until("rows that say what came of them", func() bool { got = r.rows(); return got == text })
}

// clientRules are the ids of rules in the dataplane that are not its own.
func (r *rig) clientRules() []flowtable.RuleID {
	var ids []flowtable.RuleID
	r.sw.Tables().EachBrief(func(b flowtable.Brief) bool {
		if !r.sw.OwnRule(b) {
			ids = append(ids, b.ID)
		}
		return true
	})
	slices.Sort(ids)
	return ids
}

// goes is where a frame of port a goes: numbers of ports.
func (r *rig) goes(key flowtable.Key) string {
	r.t.Helper()
	for _, p := range r.sw.Ports() {
		if p.Name == "a" {
			key[flowtable.WordIn] |= uint64(p.Number) << 32
		}
	}
	w := r.sw.Tables().NewWalker(flowtable.SideTables{})
	defer w.Close()
	var out []string
	for _, op := range w.Walk(&key, 100, 0).Ops {
		switch op.Code {
		case flowtable.OpOutput:
			for _, p := range r.sw.Ports() {
				if p.Number == op.Arg {
					out = append(out, p.Name)
				}
			}
		case flowtable.OpFlood:
			out = append(out, "flood")
		}
	}
	return strings.Join(out, " ")
}

// ip4 is a packet to an IPv4 address.
func ip4(dst uint64) flowtable.Key {
	return flowtable.Key{flowtable.WordIn: 0x800, flowtable.WordSrc: 64, flowtable.WordIP4: dst}
}

// eachServer runs a test on both servers.
func eachServer(t *testing.T, test func(t *testing.T, database func(*rig))) {
	t.Run("stock", func(t *testing.T) { test(t, (*rig).database) })
	t.Run("embedded", func(t *testing.T) { test(t, (*rig).embedded) })
}

// TestFlows: rows of Flow program the dataplane, whoever writes them, and say what came
// of them.
func TestFlows(t *testing.T) {
	eachServer(t, func(t *testing.T, database func(*rig)) {
		r := newFlowRig(t, database)
		out, err := exec.Command("ovsdb-client", "transact", r.endpoint(), `["Millrace",
			{"op":"insert","table":"Flow","row":{"bridge":"br0","priority":1,"match":"1","actions":"outport = \"_flood\"; output;"}},
			{"op":"insert","table":"Flow","row":{"bridge":"br0","priority":10,"match":"ip4.dst == $web","actions":"outport = \"b\"; output;"}},
			{"op":"insert","table":"Flow","row":{"bridge":"br0","priority":20,"match":"ip4.dst ==","actions":"drop;"}},
			{"op":"insert","table":"Flow","row":{"bridge":"br0","priority":30,"match":"inport == \"c\"","actions":"drop;"}},
			{"op":"insert","table":"Flow","row":{"bridge":"br9","priority":40,"match":"1","actions":"drop;"}},
			{"op":"insert","table":"Address_Set","row":{"name":"web","addresses":["set",["10.0.0.1","10.0.1.0/24"]]}}]`).CombinedOutput()
		if err != nil || strings.Contains(string(out), "error") {
			t.Fatalf("%v: %s", err, out)
		}
		r.say("1 active", "10 active", `20 refused match: column 11: expected a constant after "==", found the end`,
			`30 inactive match: column 11: port "c" is not on the bridge`,
			`40 inactive no bridge "br9" runs flows: it needs a port, and other_config:millrace-pipeline=flows`)
		for dst, want := range map[uint64]string{10<<24 | 1: "b", 10<<24 | 0x105: "b", 10<<24 | 2: "flood"} {
			if got := r.goes(ip4(dst)); got != want {
				t.Errorf("%x goes to %q, want %q", dst, got, want)
			}
		}
		r.vsctl("add-port", "br0", "c", "--", "set", "interface", "c", "type=dpdkvhostuser")
		r.until("the row of port c is active", func() bool { return strings.Contains(r.rows(), "30 active") })
		r.vsctl("del-port", "c")
		r.until("the row of port c is inactive", func() bool { return strings.Contains(r.rows(), "30 inactive") })
		r.put(ovsdb.Op{"op": "delete", "table": "Flow", "where": []any{[]any{"priority", ">=", 10}}})
		r.until("all goes everywhere", func() bool { return r.goes(ip4(10<<24|1)) == "flood" })
		r.vsctl("set", "bridge", "br0", "other_config:millrace-pipeline=learning")
		if n := len(r.clientRules()); n != 0 {
			t.Errorf("%d rules of a bridge that learns", n)
		}
		r.say(`1 inactive no bridge "br0" runs flows: it needs a port, and other_config:millrace-pipeline=flows`)
	})
}

// TestFlowsStay: neither a new control nor a new database changes anything in the
// dataplane, and a new dataplane gets all of it.
func TestFlowsStay(t *testing.T) {
	eachServer(t, func(t *testing.T, database func(*rig)) {
		r := newFlowRig(t, database)
		ops := []ovsdb.Op{
			{"op": "insert", "table": "Meter", "row": map[string]any{"name": "m", "unit": "kbps", "rate": 100}},
			{"op": "insert", "table": "Port_Group", "row": map[string]any{"name": "pg", "ports": []any{"set", []any{"a", "b"}}}},
			{"op": "insert", "table": "Bucket", "uuid-name": "b1", "row": map[string]any{"weight": 1, "actions": `outport = "b"; output;`}},
			{"op": "insert", "table": "Group", "row": map[string]any{"name": "g", "buckets": []any{"named-uuid", "b1"}}},
			flow(1, "inport == @pg", `meter("m"); group("g");`), flow(2, "ip4.src == {1.1.1.1, 1.1.1.2, 1.1.1.3}", "drop;"), flow(3, "1 ==", "drop;"),
		}
		const wrong = `3 refused match: column 5: expected a symbol after "==", found the end`
		r.put(ops...)
		r.say("1 active", "2 active", wrong)
		before, version := r.clientRules(), r.sw.Tables().Version()
		for _, what := range []string{"control", "database"} {
			r.stop(what)
			if got := r.goes(ip4(5)); got != "b" {
				t.Errorf("without %s packets go to %q", what, got)
			}
			if what == "control" {
				r.control()
			} else {
				database(r)
			}
			r.put(flow(4, "1 ==", "drop;")) // which changes no rule, and tells that all before is done
			r.until("the next row is refused", func() bool { return strings.Contains(r.rows(), "4 refused") })
			r.put(ovsdb.Op{"op": "delete", "table": "Flow", "where": []any{[]any{"priority", "==", 4}}})
			r.say("1 active", "2 active", wrong)
			if now := r.sw.Tables().Version(); now != version || !slices.Equal(r.clientRules(), before) {
				t.Errorf("after a restart of %s: version %d, was %d", what, now, version)
			}
		}
		r.stop("dataplane")
		r.dataplane()
		r.until("all rules are there again", func() bool { return slices.Equal(r.clientRules(), before) && r.goes(ip4(5)) == "b" })
		r.say("1 active", "2 active", wrong)
	})
}

// TestFlowCounters: what rules have counted comes back into their rows.
func TestFlowCounters(t *testing.T) {
	r := newFlowRig(t, func(r *rig) {
		r.statsEvery = 50 * time.Millisecond
		r.embedded()
	})
	r.put(flow(1, "1", "drop;"), flow(2, "ip4.src == {1.1.1.1, 1.1.1.2}", "drop;"))
	r.say("1 active", "2 active")
	ids := r.clientRules()
	if len(ids) != 3 {
		t.Fatalf("rules %v", ids)
	}
	for i, id := range ids {
		r.sw.Count(id, uint64(10<<i), uint64(1000<<i))
	}
	var all string
	r.until("70 packets in rows", func() bool { all = r.rows(); return packetsOf(t, all) == 70 })
	if strings.Count(all, "n=") != 2 {
		t.Errorf("rows say\n%s\nand want packets in both", all)
	}
	// A new control does not count from nothing.
	r.stop("control")
	r.control()
	r.put(flow(3, "1 ==", "drop;"))
	r.until("the next row is refused", func() bool { return strings.Contains(r.rows(), "3 refused") })
	if got := r.rows(); !strings.HasPrefix(got, all) {
		t.Errorf("after a restart of control rows say\n%s\nwere\n%s", got, all)
	}
}

// packetsOf is how many packets rows tell of in all.
func packetsOf(t *testing.T, rows string) (sum int) {
	t.Helper()
	for _, line := range strings.Split(rows, "\n") {
		_, told, _ := strings.Cut(line, "n=")
		if told == "" {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(told, "%d/", &n); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += n
	}
	return sum
}

// TestNoFlowDatabase: a server without the Millrace database is no trouble, and said
// once.
func TestNoFlowDatabase(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "other_config:millrace-pipeline=flows",
		"--", "add-port", "br0", "a", "--", "set", "interface", "a", "type=dpdkvhostuser")
	r.until("status says that there are no flows", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && !s.Flows.Available && strings.Contains(s.Flows.Reason, "does not have the Millrace database") && len(s.Problems) == 1
	})
	if n := r.logs.FilterMessage("the server has no such database").Len(); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestFlowTally: control.json counts rows.
func TestFlowTally(t *testing.T) {
	r := newFlowRig(t, (*rig).embedded)
	r.put(flow(1, "1", "drop;"), flow(2, "", "drop;"), flow(3, `inport == "x"`, "drop;"))
	want := flows.Tally{Rows: 3, Active: 1, Refused: 1, Inactive: 1}
	r.until("the tally", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && s.Flows.Available && s.Flows.Tally == want
	})
}
