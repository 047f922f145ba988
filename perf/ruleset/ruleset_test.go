package ruleset

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"millrace/control/logical"
	"millrace/perf/pktgen"
)

// portNumbers are the OpenFlow numbers of the ports of all sets here.
var portNumbers = map[string]int{"p0": 1, "p1": 2, "p2": 3, "p3": 4}

// sets are all sets, some of them smaller than they are measured.
func sets() map[string]Set {
	return map[string]Set{
		"L4": L4("p0", "p1"), "Clients": clients("p0", "p1", 400), "Guarded": Guarded("p0", "p1", "p2", "p3"),
		"Gate": Gate("p0", "p1", "p3", 100), "Generation": Generation(2, 100, "p0", "p3", "p2"),
		"Firewall": Firewall(UDP, "p0", "p1"), "Balanced": Balanced(UDP, "p0", "p1"),
		"Mixed": Mixed{Rules: 1000, Masks: 40, Tables: 5, Flows: 5000, In: "p0", Out: "p1"}.Set(),
	}
}

// somePackets are UDP packets that rules are for, and others that differ a bit
// from them, and some that have nothing to do with any.
func somePackets(s Set, r *rand.Rand, n int) []pktgen.Header {
	var hs []pktgen.Header
	for range n {
		m := s[r.IntN(len(s))].Match
		h := pktgen.Header{
			Src: m.Src | r.Uint32()&^m.SrcMask, Dst: m.Dst | r.Uint32()&^m.DstMask,
			SrcPort: m.SrcPort | uint16(r.Uint32())&^m.SrcBits, DstPort: m.DstPort | uint16(r.Uint32())&^m.DstBits,
		}
		switch r.IntN(4) {
		case 0:
			h.Src ^= 1 << r.IntN(32)
		case 1:
			h.DstPort ^= 1 << r.IntN(16)
		case 2: // meets rules of other masks
			o := s[r.IntN(len(s))].Match
			h.Src, h.Dst = h.Src&^o.SrcMask|o.Src, h.Dst&^o.DstMask|o.Dst
			h.SrcPort, h.DstPort = h.SrcPort&^o.SrcBits|o.SrcPort, h.DstPort&^o.DstBits|o.DstPort
		}
		hs = append(hs, h)
	}
	return hs
}

// TestLanguages compares what the texts say, read by interpreters that know
// their languages only, with what the set means.
func TestLanguages(t *testing.T) {
	for name, s := range sets() {
		var flow, mill bytes.Buffer
		if err := s.WriteOpenFlow(&flow, portNumbers); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteMillrace(&mill); err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(5, 5))
		packets := somePackets(s, r, 100)
		for range 30 { // the generator's own
			packets = append(packets, pktgen.Header{Src: ownNet | r.Uint32N(1600), Dst: ownDst, SrcPort: firstSP + uint16(r.Uint32N(200)), DstPort: ownPort})
		}
		openFlow, millrace := readOpenFlow(t, flow.String(), s.Groups()), readMillrace(t, mill.String())
		outputs := map[string]int{}
		for _, h := range packets {
			port := s.Ports()[r.IntN(len(s.Ports()))]
			answers := someAnswers(s, r)
			want := s.Decide(port, h, answers...)
			outputs[want.Output]++
			if got := openFlow(port, h, answers); got != want {
				t.Fatalf("%s: OpenFlow makes %+v of %+v from %s with %v, want %+v", name, got, h, port, answers, want)
			}
			if got := millrace(port, h, answers); got != want {
				t.Fatalf("%s: millrace makes %+v of %+v from %s with %v, want %+v", name, got, h, port, answers, want)
			}
		}
		if len(outputs) < 2 {
			t.Errorf("%s: all packets end the same: %v", name, outputs)
		}
	}
}

// flowRule is a rule of either text, as far as an interpreter has to know.
type flowRule struct {
	table, priority int
	holds           func(port string, h pktgen.Header, state State, regs *[Registers]uint32) bool
	sets            []Assign
	asks            bool // connection tracking, whose answer holds in the next table
	next            int
	output          string
}

// someAnswers are answers of connection tracking, with the header that the sets are for
// or another one.
func someAnswers(s Set, r *rand.Rand) []Answer {
	var answers []Answer
	headers := append(somePackets(s, r, 4), ServiceClient(5), Client(7))
	for range 5 {
		a := Answer{StateTracked | StateEstablished, headers[r.IntN(len(headers))]}
		if r.IntN(3) == 0 {
			a.State = State(r.IntN(8))
		}
		answers = append(answers, a)
	}
	return answers
}

// TestBalanced: packets of connections come through, and others do not.
func TestBalanced(t *testing.T) {
	s := Balanced(UDP, "p0", "p1")
	const tracked = StateTracked
	h := ServiceClient(3)
	inside := h
	inside.Dst, inside.DstPort = Backends(3)[0].Addr, Backends(3)[0].Port
	reply := pktgen.Header{Src: inside.Dst, Dst: h.Src, SrcPort: inside.DstPort, DstPort: h.SrcPort}
	outside := pktgen.Header{Src: h.Dst, Dst: h.Src, SrcPort: h.DstPort, DstPort: h.SrcPort}
	for name, tt := range map[string]struct {
		from    string
		header  pktgen.Header
		answers []Answer
		output  string
		steps   int
	}{
		"first":          {"p0", h, []Answer{{tracked | StateNew, h}, {tracked | StateNew, inside}, {tracked | StateNew, inside}, {tracked | StateNew, inside}}, "p1", 12},
		"later":          {"p0", h, []Answer{{tracked | StateEstablished, inside}, {tracked | StateEstablished, inside}}, "p1", 12},
		"reply":          {"p1", reply, []Answer{{tracked | StateEstablished, reply}, {tracked | StateEstablished, outside}}, "p0", 12},
		"from a server":  {"p1", reply, []Answer{{tracked | StateNew, reply}}, "", 5},
		"repeated":       {"p0", h, []Answer{{tracked | StateNew, inside}, {tracked | StateNew, inside}, {tracked | StateNew, inside}}, "p1", 12},
		"not a service":  {"p0", Client(3), []Answer{{tracked | StateNew, Client(3)}}, "", 5},
		"second zone":    {"p0", h, []Answer{{tracked | StateEstablished, inside}, {tracked | StateNew, reply}}, "", 10},
		"foreign sender": {"p0", reply, nil, "", 1},
	} {
		if v := s.Decide(tt.from, tt.header, tt.answers...); v.Output != tt.output || v.Steps != tt.steps {
			t.Errorf("%s: %+v, want %q in %d steps", name, v, tt.output, tt.steps)
		}
	}
	tables := map[int]bool{}
	for i := range s {
		tables[s[i].Table] = true
	}
	if len(tables) != 12 || len(s.Groups()) != services {
		t.Errorf("%d tables, %d load balancers", len(tables), len(s.Groups()))
	}
}

// TestClientsOfServers: clients differ from each other, as far as they are counted.
func TestClientsOfServers(t *testing.T) {
	seen := map[pktgen.Header]bool{}
	for i := range uint32(1 << 18) {
		seen[Client(i)], seen[Client(i+1<<28)] = true, true
	}
	if len(seen) != 1<<19 {
		t.Errorf("%d different clients of %d", len(seen), 1<<19)
	}
}

// interpret goes through rules one by one.
func interpret(rules []flowRule) func(string, pktgen.Header, []Answer) Verdict {
	return func(port string, h pktgen.Header, answers []Answer) Verdict {
		var v Verdict
		var state State
		for table := 0; ; {
			v.Steps++
			var best *flowRule
			for i := range rules {
				r := &rules[i]
				if r.table == table && (best == nil || r.priority > best.priority) && r.holds(port, h, state, &v.Regs) {
					best = r
				}
			}
			if best == nil {
				return v
			}
			for _, a := range best.sets {
				v.Regs[a.Reg] = a.Value
			}
			if best.asks {
				state, h, answers = answers[0].State, answers[0].Header, answers[1:]
			}
			if table = best.next; table == 0 {
				v.Output = best.output
				return v
			}
		}
	}
}

// readOpenFlow reads what ovs-ofctl(8) reads.
func readOpenFlow(t *testing.T, text string, groups []string) func(string, pktgen.Header, []Answer) Verdict {
	t.Helper()
	names := map[string]string{}
	for name, n := range portNumbers {
		names[strconv.Itoa(n)] = name
	}
	var rules []flowRule
	for line := range strings.Lines(text) {
		match, actions, _ := strings.Cut(strings.TrimSpace(line), ",actions=")
		fields := map[string]string{}
		for part := range strings.SplitSeq(match, ",") {
			k, v, _ := strings.Cut(part, "=")
			fields[k] = v
		}
		r := flowRule{table: atoi(t, fields["table"]), priority: atoi(t, fields["priority"])}
		delete(fields, "table")
		delete(fields, "priority")
		for k := range fields {
			if !slices.Contains([]string{"in_port", "ip", "tcp", "udp", "nw_src", "nw_dst", "tp_src", "tp_dst", "reg0", "reg1", "reg2", "reg3", "ct_state"}, k) {
				t.Fatalf("%s: field %q", line, k)
			}
		}
		_, tcp := fields["tcp"]
		r.holds = func(port string, h pktgen.Header, state State, regs *[Registers]uint32) bool {
			seen := map[string]uint64{
				"in_port": uint64(portNumbers[port]), "nw_src": uint64(h.Src), "nw_dst": uint64(h.Dst),
				"tp_src": uint64(h.SrcPort), "tp_dst": uint64(h.DstPort),
			}
			for i, v := range regs {
				seen[fmt.Sprint("reg", i)] = uint64(v)
			}
			for k, want := range fields {
				if v, has := seen[k]; has && !sameMasked(t, v, want) {
					return false
				}
			}
			return !tcp && holdsState(t, fields["ct_state"], state)
		}
		for _, action := range splitActions(actions) {
			if n, is := strings.CutPrefix(action, "group:"); is { // its buckets go on in one table
				action = regexp.MustCompile(`actions=(ct\(commit.*?\)\))`).FindStringSubmatch(groups[atoi(t, n)-1])[1]
			}
			if strings.HasPrefix(action, "ct(") {
				if m := regexp.MustCompile(`table=(\d+)`).FindStringSubmatch(action); m != nil {
					r.asks, r.next = true, atoi(t, m[1])
				}
				continue
			}
			switch m := regexp.MustCompile(`^(?:load:(0x[0-9a-f]+)->NXM_NX_REG(\d)\[\]|output:(\d+)|resubmit\(,(\d+)\)|drop)$`).FindStringSubmatch(action); {
			case m == nil:
				t.Fatalf("%s: action %q", line, action)
			case m[1] != "":
				v, _ := strconv.ParseUint(m[1], 0, 32)
				r.sets = append(r.sets, Assign{atoi(t, m[2]), uint32(v)})
			case m[3] != "":
				r.output = names[m[3]]
			case m[4] != "":
				r.next = atoi(t, m[4])
			}
		}
		rules = append(rules, r)
	}
	return interpret(rules)
}

// splitActions splits at commas that are not inside of parentheses.
func splitActions(text string) (actions []string) {
	depth, start := 0, 0
	for i, c := range text {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				actions = append(actions, text[start:i])
				start = i + 1
			}
		}
	}
	return append(actions, text[start:])
}

// holdsState compares a state with what ct_state says, such as -new+est.
func holdsState(t *testing.T, text string, state State) bool {
	t.Helper()
	for _, m := range regexp.MustCompile(`([-+])([a-z]+)`).FindAllStringSubmatch(text, -1) {
		bit := slices.Index(stateNames[:], m[2])
		if bit < 0 {
			t.Fatalf("state %q", text)
		}
		if (state>>bit&1 != 0) != (m[1] == "+") {
			return false
		}
	}
	return true
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sameMasked compares v with VALUE or VALUE/MASK, numbers or addresses.
func sameMasked(t *testing.T, v uint64, text string) bool {
	t.Helper()
	number := func(s string) uint64 {
		if a, err := netip.ParseAddr(s); err == nil {
			b := a.As4()
			return uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		}
		n, err := strconv.ParseUint(s, 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	value, mask, masked := strings.Cut(text, "/")
	if !masked {
		return v == number(value)
	}
	return v&number(mask) == number(value)
}

// world knows the ports, by their OpenFlow numbers.
type world struct{}

func (world) Port(name string) (uint32, bool)          { n, ok := portNumbers[name]; return uint32(n), ok }
func (world) Resident(string) bool                     { return false }
func (world) InAddressSet(string, logical.Value) bool  { return false }
func (world) InPortGroup(name string, key uint32) bool { return false }

// readMillrace reads the lines, and has millrace's own parser and its plain
// interpreter read what is in them.
func readMillrace(t *testing.T, text string) func(string, pktgen.Header, []Answer) Verdict {
	t.Helper()
	form := regexp.MustCompile(`^table=(\d+) priority=(\d+) match=("(?:[^"\\]|\\.)*") actions=("(?:[^"\\]|\\.)*")$`)
	symbols := logical.NewSymbols()
	var rules []flowRule
	for line := range strings.Lines(text) {
		m := form.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Fatalf("not a rule: %s", line)
		}
		match, err := strconv.Unquote(m[3])
		if err != nil {
			t.Fatal(err)
		}
		actions, err := strconv.Unquote(m[4])
		if err != nil {
			t.Fatal(err)
		}
		expr, err := symbols.ParseMatch(match)
		if err != nil {
			t.Fatalf("%s: %v", match, err)
		}
		list, err := symbols.ParseActions(actions)
		if err != nil {
			t.Fatalf("%s: %v", actions, err)
		}
		r := flowRule{table: atoi(t, m[1]), priority: atoi(t, m[2])}
		r.holds = func(port string, h pktgen.Header, state State, regs *[Registers]uint32) bool {
			p := logical.Packet{
				logical.FieldInport: logical.U64(uint64(portNumbers[port])), logical.FieldEthType: logical.U64(0x800), logical.FieldIPProto: logical.U64(UDP),
				logical.FieldIP4Src: logical.U64(uint64(h.Src)), logical.FieldIP4Dst: logical.U64(uint64(h.Dst)),
				logical.FieldUDPSrc: logical.U64(uint64(h.SrcPort)), logical.FieldUDPDst: logical.U64(uint64(h.DstPort)),
				logical.FieldCTState: logical.U64(ovnState(state)),
				logical.FieldXXReg0:  {Hi: uint64(regs[0])<<32 | uint64(regs[1]), Lo: uint64(regs[2])<<32 | uint64(regs[3])},
			}
			return symbols.Eval(expr, &p, world{})
		}
		outport := ""
		for _, action := range list.List {
			switch a := action.(type) {
			case *logical.Load:
				if a.To.Symbol.Name == "outport" {
					outport = a.Value.Text
					continue
				}
				r.sets = append(r.sets, Assign{atoi(t, strings.TrimPrefix(a.To.Symbol.Name, "reg")), uint32(a.Value.Value.Lo)})
			case *logical.Next:
				r.next = a.Table
			case *logical.Zone, *logical.LoadBalance:
				r.asks, r.next = true, r.table+1
			case *logical.Block:
				if a.Verb != "ct_commit" {
					t.Fatalf("action %v", a)
				}
			case *logical.Simple:
				if a.Verb != "output" {
					t.Fatalf("action %v", a)
				}
				r.output = outport
			default:
				t.Fatalf("%s: action %T", actions, a)
			}
		}
		rules = append(rules, r)
	}
	return interpret(rules)
}

// ovnState is a state as OVN has it in ct_state.
func ovnState(s State) (bits uint64) {
	for _, b := range []struct {
		ours State
		ovn  uint64
	}{{StateNew, 1}, {StateEstablished, 2}, {StateTracked, 32}} {
		if s&b.ours != 0 {
			bits |= b.ovn
		}
	}
	return bits
}

// TestOVSReads has ovs-ofctl read each set: as many rules as were written.
func TestOVSReads(t *testing.T) {
	if _, err := exec.LookPath("ovs-ofctl"); err != nil {
		t.Skip("needs ovs-ofctl: apt-get install openvswitch-switch")
	}
	for name, s := range sets() {
		path := filepath.Join(t.TempDir(), "rules")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WriteOpenFlow(f, portNumbers); err != nil {
			t.Fatal(err)
		}
		f.Close()
		out, err := exec.Command("ovs-ofctl", "parse-flows", path).Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := strings.Count(string(out), "ADD "); n != len(s) {
			t.Errorf("%s: ovs-ofctl reads %d rules of %d", name, n, len(s))
		}
	}
}

// TestMixed: as many rules and masks as there shall be, in as many tables; flows
// that all differ and all arrive; the same again.
func TestMixed(t *testing.T) {
	m := Mixed{Rules: 10_000, Masks: 40, Tables: 5, Flows: 100_000, In: "p0", Out: "p1"}
	s, flows := m.Set(), m.Headers()
	plain, perTable := map[Mask]bool{}, map[int]int{}
	seen := map[string]bool{}
	for i := range s {
		perTable[s[i].Table]++
		if s[i].Priority > 0 {
			plain[s[i].Match.Mask()] = true
		}
		key := fmt.Sprint(s[i].Table, s[i].Priority, s[i].Match)
		if seen[key] {
			t.Errorf("two rules %s", key)
		}
		seen[key] = true
	}
	if len(s) != 10_000 || len(plain) != 40 || len(perTable) != 5 || perTable[0] < 1990 || perTable[4] < 1990 {
		t.Errorf("%d rules, %d masks, rules in tables %v", len(s), len(plain), perTable)
	}
	distinct := map[pktgen.Header]bool{}
	for _, h := range flows {
		distinct[h] = true
	}
	if len(distinct) != 100_000 {
		t.Errorf("%d different flows", len(distinct))
	}
	ways := map[Verdict]int{}
	for _, h := range flows[:60] {
		v := s.Decide("p0", h)
		if ways[v]++; v.Output != "p1" || v.Steps != 5 {
			t.Fatalf("%+v ends at %+v", h, v)
		}
	}
	// A way that meets no rule but the last of each table is one of all; each rule
	// leads on with one of 16 values.
	if len(ways) < 8 {
		t.Errorf("60 flows have %d different ways", len(ways))
	}
	met := 0
	for _, h := range flows[:60] {
		if s.meets("p0", h) > s.meets("p0", pktgen.Header{Src: 1}) {
			met++
		}
	}
	if met < 50 {
		t.Errorf("%d of 60 flows meet rules", met)
	}
	if again := m.Set(); !slices.EqualFunc(s, again, func(a, b Rule) bool { return a.Millrace() == b.Millrace() }) {
		t.Error("another time, other rules")
	}
}

// meets is how many rules with a priority a packet meets on its way.
func (s Set) meets(port string, h pktgen.Header) (n int) {
	var regs [Registers]uint32
	for table := 0; ; {
		r := s.find(table, port, h, 0, &regs)
		if r == nil {
			return n
		}
		if r.Priority > 0 {
			n++
		}
		for _, a := range r.Set {
			regs[a.Reg] = a.Value
		}
		if table = r.Next; table == 0 {
			return n
		}
	}
}

// TestAttack: all headers are dropped, and each differs from the three rules in
// first bits of its own.
func TestAttack(t *testing.T) {
	s := Guarded("p0", "p1", "p2", "p3")
	first := func(a, b uint32) int {
		for i := 31; i >= 0; i-- {
			if (a^b)>>i&1 != 0 {
				return i
			}
		}
		return -1
	}
	seen := map[[3]int]int{}
	for _, h := range Attack(2) {
		if v := s.Decide("p2", h); v.Output != "" {
			t.Fatalf("%+v goes to %s", h, v.Output)
		}
		seen[[3]int{first(h.Src, openSource), first(uint32(h.SrcPort), openSender), first(uint32(h.DstPort), openPort)}]++
	}
	if len(seen) != AttackMasks {
		t.Errorf("%d different sets of bits, want %d", len(seen), AttackMasks)
	}
	for k, n := range seen {
		if n != 2 {
			t.Fatalf("bits %v: %d headers, want 2", k, n)
		}
	}
}

// TestClients: packets whose networks and ranges of ports differ meet other
// rules, and all of them arrive.
func TestClients(t *testing.T) {
	s := Clients("p0", "p1")
	seen := map[[Registers]uint32]bool{}
	r := rand.New(rand.NewPCG(9, 9))
	for range 50 {
		v := s.Decide("p0", pktgen.Header{Src: ownNet | r.Uint32N(1<<16), Dst: ownDst, SrcPort: uint16(r.Uint32()), DstPort: ownPort})
		if v.Output != "p1" || v.Steps != 5 {
			t.Fatalf("ends at %+v", v)
		}
		seen[v.Regs] = true
	}
	if len(seen) != 50 {
		t.Errorf("50 packets met %d different pairs of rules", len(seen))
	}
}

// TestGenerations: packets of either generation go their way, and those that
// meet the first table of the one and the second of the other go astray.
func TestGenerations(t *testing.T) {
	old, now := Generation(1, 10, "p0", "p1", "p2"), Generation(2, 10, "p0", "p3", "p2")
	var half Set
	for i := range now {
		if half = append(half, old[i]); now[i].Table == 0 {
			half[i] = now[i]
		}
	}
	for i := range 10 {
		h := pktgen.Header{SrcPort: uint16(firstSP + i), DstPort: ownPort}
		for want, s := range map[string]Set{"p1": old, "p3": now, "p2": half} {
			if v := s.Decide("p0", h); v.Output != want {
				t.Errorf("flow %d goes to %q, want %q", i, v.Output, want)
			}
		}
	}
}

// TestOVSReadsGroups has ovs-ofctl read the load balancers.
func TestOVSReadsGroups(t *testing.T) {
	if _, err := exec.LookPath("ovs-ofctl"); err != nil {
		t.Skip("needs ovs-ofctl: apt-get install openvswitch-switch")
	}
	for _, g := range Balanced(UDP, "p0", "p1").Groups() {
		out, err := exec.Command("ovs-ofctl", "-O", "OpenFlow15", "parse-group", g).CombinedOutput()
		if err != nil || strings.Count(string(out), "bucket_id") != backends && strings.Count(string(out), "bucket=") != backends {
			t.Fatalf("%s: %v: %s", g, err, out)
		}
	}
}
