package bridge

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/control/ovsdb/model"
)

// rewrite accepts what the scenarios yield now.
var rewrite = flag.Bool("rewrite", false, "write testdata/*.txt anew")

// TestScenarios runs testdata/*.txt. A scenario is blocks: lines of input, a
// line of dashes, and what they yield, up to a blank line. Rows stay for the
// next block:
//
//	row Bridge br0 ports=p1,p2     a row; replaces one of the same table and name
//	row Port p1 interfaces=p1      a Port without interfaces= has one of its name
//	row Interface p1 type=patch options:peer=p2
//	row Interface p1 security=02:00:00:00:00:01+10.0.0.1     + stands for a blank
//	del Interface p1
//	local no permission            bridges have devices of their own; not, for a reason
//	apply                          shows changes, and makes them
//	report                         shows what is wrong, and the port numbers
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(b))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(b) {
				t.Errorf("%s yields\n%s", file, got)
			}
		})
	}
}

// play runs a scenario and returns it with what it yields.
func play(t *testing.T, text string) string {
	s := newStage(t)
	var out strings.Builder
	yields := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "----":
			yields = true
			out.WriteString("----\n" + s.out.String())
			s.out.Reset()
		case yields && line != "":
		case line == "":
			yields = false
			out.WriteString("\n")
		default:
			out.WriteString(line + "\n")
			s.run(line)
		}
	}
	return out.String()
}

// A stage has the rows and a dataplane in name only.
type stage struct {
	t    *testing.T
	rows Rows
	have Have
	out  strings.Builder

	policy Policy
}

func newStage(t *testing.T) *stage {
	return &stage{t: t, rows: Rows{
		Root: &model.OpenvSwitch{}, Bridges: map[string]*model.Bridge{}, Ports: map[string]*model.Port{}, Interfaces: map[string]*model.Interface{}, QoS: map[string]*model.QoS{},
	}, have: Have{Ports: map[string]Port{}, Bridges: map[string]Bridge{}}, policy: Policy{RunDir: "/run/m", Agent: agentOptions}}
}

// agentOptions is an agent that knows two options.
func agentOptions(options map[string]string) (problems []error) {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		if key != "server" && key != "allow" {
			problems = append(problems, fmt.Errorf("unknown option %q", key))
		}
	}
	return problems
}

func (s *stage) state() *State { return From(s.rows, s.policy) }

func (s *stage) run(line string) {
	words := strings.Fields(line)
	switch words[0] {
	case "#":
	case "row":
		s.row(words[1], words[2], words[3:])
	case "del":
		delete(s.rows.Bridges, words[2])
		delete(s.rows.Ports, words[2])
		delete(s.rows.Interfaces, words[2])
	case "local": // bridges have devices, unless words say why not
		s.policy.Local, s.policy.NoDevices = true, strings.Join(words[1:], " ")
	case "apply":
		s.apply()
	case "report":
		s.report()
	default:
		s.t.Fatalf("no such command: %s", line)
	}
}

// row makes a row, whose UUID is its name.
func (s *stage) row(table, name string, columns []string) {
	name = repeat(name)
	switch table {
	case "Open_vSwitch":
		s.rows.Root.OtherConfig = pairs(columns, "other_config:")
	case "Bridge":
		b := &model.Bridge{UUID: name, Name: name, OtherConfig: pairs(columns, "other_config:")}
		if s.rows.Bridges[name] == nil {
			s.rows.Root.Bridges = append(s.rows.Root.Bridges, name)
		}
		s.rows.Bridges[name] = b
		each(columns, func(k, v string) {
			switch k {
			case "ports":
				b.Ports = strings.Split(v, ",")
			case "fail_mode":
				b.FailMode = &v
			case "controller":
				b.Controller = []string{v}
			case "stp_enable":
				b.STPEnable = v == "true"
			case "flood_vlans":
				b.FloodVLANs = numbers(v)
			}
		})
	case "Port":
		s.port(name, columns)
	case "Interface":
		s.iface(name, columns)
	case "QoS":
		q := &model.QoS{UUID: name, OtherConfig: pairs(columns, "other_config:")}
		each(columns, func(k, v string) {
			if k == "type" {
				q.Type = v
			}
		})
		s.rows.QoS[name] = q
	}
}

func (s *stage) port(name string, columns []string) {
	p := &model.Port{UUID: name, Name: name, Interfaces: []string{name}, OtherConfig: pairs(columns, "other_config:")}
	s.rows.Ports[name] = p
	each(columns, func(k, v string) {
		switch k {
		case "interfaces":
			p.Interfaces = strings.Split(v, ",")
		case "tag":
			p.Tag = &numbers(v)[0]
		case "trunks":
			p.Trunks = numbers(v)
		case "vlan_mode":
			p.VLANMode = &v
		case "fake_bridge":
			p.FakeBridge = v == "true"
		case "qos":
			p.QOS = &v
		}
	})
}

func (s *stage) iface(name string, columns []string) {
	i := &model.Interface{UUID: name, Name: name, Options: pairs(columns, "options:")}
	s.rows.Interfaces[name] = i
	if s.rows.Ports[name] == nil {
		s.port(name, nil)
	}
	each(columns, func(k, v string) {
		switch k {
		case "type":
			i.Type = v
		case "mtu_request":
			i.MTURequest = &numbers(v)[0]
		case "ofport_request":
			i.OfportRequest = &numbers(v)[0]
		case "ofport":
			i.Ofport = &numbers(v)[0]
		case "mac":
			i.MAC = &v
		case "name":
			i.Name = v
		case "ingress_policing_rate":
			i.IngressPolicingRate = numbers(v)[0]
		case "ingress_policing_burst":
			i.IngressPolicingBurst = numbers(v)[0]
		case "ingress_policing_kpkts_rate":
			i.IngressPolicingKpktsRate = numbers(v)[0]
		case "security":
			i.OtherConfig = map[string]string{KeySecurity: strings.ReplaceAll(v, "+", " ")}
		}
	})
}

// apply shows and makes changes. A second pass must have none to make.
func (s *stage) apply() {
	want := s.state()
	changes := Diff(s.have, want)
	for _, c := range changes {
		fmt.Fprintln(&s.out, c)
		switch c.Kind {
		case Delete:
			delete(s.have.Ports, c.Port.Name)
			for name, p := range s.have.Ports { // wires to it go, too
				if p.Wire == c.Port.Name {
					p.Wire = ""
					s.have.Ports[name] = p
				}
			}
		case SetWorkers:
			s.have.CPUs = c.CPUs
		case SetBridge:
			s.have.Bridges[c.Bridge.Name] = c.Bridge
		case Wire, Unwire:
			p := s.have.Ports[c.Port.Name]
			p.Wire = c.Port.Wire
			s.have.Ports[c.Port.Name] = p
		case Set:
			p := c.Port
			p.Wire = s.have.Ports[p.Name].Wire
			s.have.Ports[p.Name] = p
		default:
			p := c.Port
			p.Wire = "" // comes with a step of its own
			s.have.Ports[p.Name] = p
		}
	}
	if len(changes) == 0 {
		fmt.Fprintln(&s.out, "nothing")
	}
	if again := Diff(s.have, s.state()); len(again) > 0 {
		s.t.Errorf("second pass: %v", again)
	}
}

// report shows what rows are told.
func (s *stage) report() {
	st := s.state()
	for _, e := range st.Errors {
		fmt.Fprintln(&s.out, e)
	}
	for _, v := range st.Interfaces {
		fmt.Fprintf(&s.out, "%s ofport=%d", short(v.Name), v.Ofport)
		if v.Error != "" {
			fmt.Fprintf(&s.out, " error=%q", v.Error)
		}
		if v.Note != "" && s.policy.Local {
			fmt.Fprintf(&s.out, " note=%q", v.Note)
		}
		fmt.Fprintln(&s.out)
	}
	for _, name := range slices.Sorted(maps.Keys(st.Egress)) {
		e := st.Egress[name]
		fmt.Fprintf(&s.out, "%s: %s %s%s mac=%s mtu=%d ip=%v gateway=%v options=%v\n", name, e.Stack, e.Socket, e.Netns, e.MAC, e.MTU, e.Addresses, e.Gateways, e.Options)
	}
	if st.Stats != StatsDefault {
		fmt.Fprintln(&s.out, "stats every", st.Stats.Round(time.Millisecond))
	}
	if b := st.Balance; b.On {
		fmt.Fprintf(&s.out, "balance every %v from %d %% if %d %% better\n", b.Interval, b.Load, b.Improve)
	}
	if st.CPUs != nil {
		fmt.Fprintln(&s.out, "cpus", st.CPUs)
	}
}

// pairs collects what has the prefix; each calls f for the rest.
func pairs(columns []string, prefix string) map[string]string {
	m := map[string]string{}
	for _, c := range columns {
		if c, ok := strings.CutPrefix(c, prefix); ok {
			k, v, _ := strings.Cut(c, "=")
			m[repeat(k)] = repeat(v)
		}
	}
	return m
}

func each(columns []string, f func(k, v string)) {
	for _, c := range columns {
		if k, v, _ := strings.Cut(c, "="); !strings.Contains(k, ":") {
			f(k, repeat(v))
		}
	}
}

// repeat turns x*10000 into ten thousand x, "" into nothing, and \n into a
// line break.
func repeat(s string) string {
	if s == `""` {
		return ""
	}
	if head, n, ok := strings.Cut(s, "*"); ok {
		if n, err := strconv.Atoi(n); err == nil {
			return strings.Repeat(head, n)
		}
	}
	return strings.ReplaceAll(s, `\n`, "\n")
}

func numbers(s string) []int {
	var list []int
	for _, w := range strings.Split(s, ",") {
		n, err := strconv.Atoi(w)
		if err != nil {
			panic("scenario: " + s)
		}
		list = append(list, n)
	}
	return list
}
