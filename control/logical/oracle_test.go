package logical

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// oracle is OVN's own implementation of the language: ovn-trace, over a
// southbound database that holds what is asked.
type oracle struct {
	t      *testing.T
	socket string
	dp     string // UUID of the datapath "sw", which has the ports a and b
}

// newOracle serves a database until the test ends.
func newOracle(t *testing.T) *oracle {
	t.Helper()
	for _, tool := range []string{"ovn-trace", "ovsdb-server", "ovsdb-tool", "ovsdb-client"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	const schema = "/usr/share/ovn/ovn-sb.ovsschema"
	if _, err := os.Stat(schema); err != nil {
		t.Skip("needs the schema of OVN's southbound database")
	}
	dir, err := os.MkdirTemp("", "oracle") // short, for the socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db := filepath.Join(dir, "sb.db")
	if out, err := exec.Command("ovsdb-tool", "create", db, schema).CombinedOutput(); err != nil {
		t.Fatalf("create the database: %v: %s", err, out)
	}
	o := &oracle{t: t, socket: filepath.Join(dir, "sock")}
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, "ovsdb-server", "--remote=punix:"+o.socket, "--unixctl="+filepath.Join(dir, "ctl"), db)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = server.Wait() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", o.socket); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("ovsdb-server does not listen")
		}
	}
	o.setUp()
	return o
}

// row is a row of a table, or an operation of a transaction.
type row = map[string]any

// insert returns the operation that inserts r.
func insert(table, name string, r row) row {
	op := row{"op": "insert", "table": table, "row": r}
	if name != "" {
		op["uuid-name"] = name
	}
	return op
}

// setUp makes the datapath and its ports.
func (o *oracle) setUp() {
	o.t.Helper()
	ids := []any{"map", [][]string{{"name", "sw"}, {"logical-switch", "05fab6cf-2d8b-444a-bbca-266dca872b2a"}}}
	dp := []any{"named-uuid", "dp"}
	reply := o.transact(
		insert("Datapath_Binding", "dp", row{"tunnel_key": 1, "external_ids": ids}),
		insert("Port_Binding", "", row{"logical_port": "a", "datapath": dp, "tunnel_key": 1}),
		insert("Port_Binding", "", row{"logical_port": "b", "datapath": dp, "tunnel_key": 2}))
	o.dp = reply[0].UUID[1]
}

// transact runs ops, in transactions that fit a command line.
func (o *oracle) transact(ops ...row) (reply []struct{ UUID []string }) {
	o.t.Helper()
	const most = 150
	for ; len(ops) > most; ops = ops[most:] {
		o.transact(ops[:most]...)
	}
	params := []any{"OVN_Southbound"}
	for _, op := range ops {
		params = append(params, op)
	}
	text, err := json.Marshal(params)
	if err != nil {
		o.t.Fatal(err)
	}
	var out, said bytes.Buffer // it says more than the reply if it was given no CPU for a second
	cmd := exec.Command("ovsdb-client", "transact", "unix:"+o.socket, string(text))
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil || json.Unmarshal(out.Bytes(), &reply) != nil || strings.Contains(out.String(), `"error"`) {
		o.t.Fatalf("transact: %v: %.2000s%s", err, &out, &said)
	}
	return reply
}

// flow returns the operation that adds a flow to table n.
func (o *oracle) flow(n, priority int, match, actions string) row {
	return insert("Logical_Flow", "", row{"logical_datapath": []any{"uuid", o.dp}, "pipeline": "ingress", "table_id": n,
		"priority": priority, "match": match, "actions": actions})
}

// forget returns the operation that deletes all flows.
func forget() row { return row{"op": "delete", "table": "Logical_Flow", "where": []any{}} }

// trace runs ovn-trace for a packet, and returns all that it says.
func (o *oracle) trace(packet string) string {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ovn-trace", "--no-friendly-names", "--db=unix:"+o.socket, "sw", packet).CombinedOutput()
	if err != nil {
		o.t.Fatalf("trace %s: %v: %.2000s", packet, err, out)
	}
	return string(out)
}

// isOlder reports whether the oracle refuses text for want of something: OVN
// 23.03, which distributions have, lacks symbols, verbs and arguments of 25.03,
// and ovn-trace has no DHCP options unless the database lists them.
func isOlder(text, reason string) bool {
	for _, want := range []string{"expecting field name", "expecting action", "option name", "malformed sample observation_point_id"} {
		if strings.Contains(reason, want) {
			return true
		}
	}
	return strings.HasPrefix(text, "ct_next; ") || strings.HasPrefix(text, "ct_commit_nat; ") || strings.Contains(text, "select(values=")
}

// isLax reports whether OVN accepts text though it makes no sense: a write that
// only ICMP blocks have a use for, no backends, a length that it cuts to 16
// bits; and constants wider than the bits that they are compared with.
func isLax(text string, err error) bool {
	return strings.HasPrefix(text, "icmp4.frag_mtu =") || text == "ct_lb(backends=);" || strings.Contains(text, "check_pkt_larger(70000)") ||
		strings.Contains(err.Error(), "expected at most 3 bits for reg0[3..5]")
}

// verdicts asks the oracle which of texts it refuses, as matches or as actions,
// and returns its reasons.
func (o *oracle) verdicts(texts []string, actions bool) map[string]string {
	o.t.Helper()
	ops := []row{forget()}
	for i, text := range texts {
		if actions {
			ops = append(ops, o.flow(5, i, "1", text))
		} else {
			ops = append(ops, o.flow(5, i, text, "next;"))
		}
	}
	o.transact(ops...)
	said := o.trace(`inport == "a"`)
	what := map[bool]string{false: "expression", true: "actions"}[actions]
	reasons := make(map[string]string)
	for _, text := range texts {
		at := strings.Index(said, "|"+text+": parsing "+what+" failed (")
		if at < 0 {
			continue
		}
		reason := said[at+1+len(text):]
		if end := strings.IndexByte(reason, '\n'); end >= 0 {
			reason = reason[:end]
		}
		reasons[text] = reason
	}
	return reasons
}

// askable keeps what can go through JSON and a line of a log.
func askable(texts []string) []string {
	var out []string
	for _, text := range texts {
		if utf8.ValidString(text) && !strings.ContainsAny(text, "\n") {
			out = append(out, text)
		}
	}
	return out
}

func TestOracleAcceptsTheSameMatches(t *testing.T) {
	o, s := newOracle(t), NewSymbols()
	var texts []string
	for _, tt := range append(validMatches(), invalidMatches()...) {
		if !strings.ContainsAny(tt.in, "$@") { // ovn-trace wants those sets to exist
			texts = append(texts, tt.in)
		}
	}
	w := newWriter(s, 5)
	w.noSets = true
	for range 1000 {
		texts = append(texts, w.expr(2))
	}
	compareVerdicts(t, o, texts, false, func(text string) error {
		_, err := s.ParseMatch(text)
		return err
	}, 40)
}

func TestOracleAcceptsTheSameActions(t *testing.T) {
	o, s := newOracle(t), NewSymbols()
	var texts []string
	for _, tt := range validActions() {
		texts = append(texts, tt.in)
	}
	for _, tt := range invalidActions() {
		texts = append(texts, tt.in)
	}
	compareVerdicts(t, o, texts, true, func(text string) error {
		_, err := s.ParseActions(text)
		return err
	}, 40)
}

// compareVerdicts fails for texts on which parse and the oracle differ, and
// unless each has refused at least few.
func compareVerdicts(t *testing.T, o *oracle, texts []string, actions bool, parse func(string) error, few int) {
	t.Helper()
	texts = askable(texts)
	reasons := o.verdicts(texts, actions)
	both := 0
	for _, text := range texts {
		err := parse(text)
		reason, refused := reasons[text]
		switch {
		case refused && err != nil:
			both++
		case refused && !isOlder(text, reason):
			t.Errorf("%s: only OVN refuses it%s", text, reason)
		case !refused && err != nil && !isLax(text, err):
			t.Errorf("%s: only we refuse it: %v", text, err)
		}
	}
	if both < few {
		t.Errorf("both refuse %d of %d texts, want at least %d", both, len(texts), few)
	}
}

// microflow returns p as ovn-trace takes packets, and a packet that holds no
// more than it says. (It cannot take both ip.dscp and ip.ecn.)
func (w *writer) microflow(s *Symbols, p *Packet) (string, *Packet) {
	shapes := [...]string{
		"arp arp.op arp.spa arp.tpa arp.sha arp.tha",
		"ip4 tcp ip4.src ip4.dst tcp.src tcp.dst ip.ttl ip.frag",
		"ip4 udp ip4.src ip4.dst udp.src udp.dst ip.ttl",
		"ip6 tcp ip6.src ip6.dst tcp.src tcp.dst ip.ttl ip6.label",
		"ip4 icmp4 ip4.src icmp4.type icmp4.code",
		"ip6 icmp6 ip6.src ip6.dst icmp6.type icmp6.code ip.ttl nd.target",
	}
	proto := map[string]uint64{"tcp": 6, "udp": 17, "icmp4": 1, "icmp6": 58}
	types := map[string]uint64{"arp": 0x806, "ip4": 0x800, "ip6": 0x86dd}
	q := &Packet{FieldInport: U64(1)}
	parts := []string{`inport == "a"`}
	shape := "eth.src eth.dst vlan.tci ct_state ct_mark ct_label xxreg0 xxreg1 xreg4 flags pkt.mark " + shapes[w.IntN(len(shapes))]
	for _, name := range strings.Fields(shape) {
		sym := s.Lookup(name)
		switch {
		case sym.Predicate != "":
			parts = append(parts, name)
			if n, ok := proto[name]; ok {
				q[FieldIPProto] = U64(n)
			} else {
				q[FieldEthType] = U64(types[name])
			}
			continue
		case name == "icmp6.type" && w.IntN(2) == 0:
			p[sym.Field] = U64(135)
		case name == "ip.frag" && p[sym.Field].Lo == 2, name == "vlan.tci" && p[sym.Field].Lo&0x1000 == 0:
			p[sym.Field] = Value{} // no packet has that
		case name == "ct_state" && p[sym.Field].Lo&0x20 == 0:
			p[sym.Field] = Value{}
		case name == "ct_state":
			p[sym.Field].Lo &= 0xff
		case name == "nd.target" && !isND(q):
			continue
		}
		if name == "nd.target" {
			q[FieldIPTTL], q[FieldICMP6Code] = U64(255), Value{}
		}
		q[sym.Field] = p[sym.Field]
	}
	return strings.Join(append(parts, w.assignments(s, shape, q)...), " && "), q
}

// isND reports whether q's ICMP type is neighbour solicitation or advertisement.
func isND(q *Packet) bool { return q[FieldICMP6Type].Lo == 135 || q[FieldICMP6Type].Lo == 136 }

// assignments returns a comparison for each field of shape.
func (w *writer) assignments(s *Symbols, shape string, q *Packet) []string {
	var parts []string
	for _, name := range strings.Fields(shape) {
		sym := s.Lookup(name)
		if sym.Predicate != "" || name == "nd.target" && !isND(q) {
			continue
		}
		parts = append(parts, name+" == "+string(appendNumber(nil, q[sym.Field], FormatHex)))
	}
	return parts
}

// traceTables is how many tables a packet passes; ovn-trace has one more.
const traceTables = 28

func TestOracleMeansTheSame(t *testing.T) {
	o, s := newOracle(t), NewSymbols()
	w := newWriter(s, 77)
	w.noSets = true
	line := regexp.MustCompile(`(?m)^ ?([0-9]+)\. .*, priority 100, uuid`)
	yes, no := 0, 0
	for range 12 {
		exprs := w.batch(t, s, o)
		for range 4 {
			text, p := w.microflow(s, w.packet(exprs[w.IntN(len(exprs))]))
			said := o.trace(text)
			if !strings.Contains(said, strconv.Itoa(traceTables)+". no match") {
				t.Fatalf("%s\ndid not pass %d tables:\n%s", text, traceTables, said)
			}
			hit := make(map[int]bool)
			for _, m := range line.FindAllStringSubmatch(said, -1) {
				n, _ := strconv.Atoi(m[1])
				hit[n] = true
			}
			for n, e := range exprs {
				if want := s.Eval(e, p, world{}); hit[n] != want {
					t.Errorf("%s\nfor %s\nis %v for OVN, %v for us", Print(e), text, hit[n], want)
				}
			}
			yes, no = yes+len(hit), no+len(exprs)-len(hit)
		}
	}
	if yes < 300 || no < 300 {
		t.Errorf("%d outcomes true, %d false: too few to show anything", yes, no)
	}
}

// batch gives the oracle a table for each of some random expressions that it
// accepts, and returns them.
func (w *writer) batch(t *testing.T, s *Symbols, o *oracle) []Expr {
	t.Helper()
	var texts []string
	for range 6 * traceTables {
		texts = append(texts, Print(w.parse(t, s)))
	}
	refused := o.verdicts(texts, false)
	var exprs []Expr
	ops := []row{forget()}
	for _, text := range texts {
		if _, no := refused[text]; no || len(exprs) == traceTables || strings.Contains(text, "is_chassis_resident") {
			continue
		}
		n := len(exprs)
		e, err := s.ParseMatch(text)
		if err != nil {
			t.Fatal(err)
		}
		if clauses, err := NewCompiler(Options{}).Compile(e); err == nil && describe(clauses) == "[]" {
			continue // ovn-trace does not show flows that always match
		}
		exprs = append(exprs, e)
		ops = append(ops, o.flow(n, 100, text, "next;"), o.flow(n, 0, "1", "next;"))
	}
	if len(exprs) < traceTables {
		t.Fatalf("OVN accepts %d expressions of %d", len(exprs), len(texts))
	}
	o.transact(ops...)
	return exprs
}
