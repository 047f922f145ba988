package ruleset

import (
	"fmt"
	"strings"

	"millrace/perf/pktgen"
)

// A State is what connection tracking says of a packet: bits of OVN's ct_state.
type State uint8

// The bits of a State.
const (
	StateNew State = 1 << iota
	StateEstablished
	StateTracked
)

// stateNames are what the languages call them.
var stateNames = [...]string{"new", "est", "trk"}

// A Zone is one of those that a set uses.
type Zone uint8

// The zones. In OpenFlow they are numbers; a bridge of millrace has them by name.
const (
	ZonePlain Zone = iota
	ZoneDNAT
)

// number is the number of a zone in OpenFlow.
func (z Zone) number() int { return 7 + int(z) }

// A Backend is where a load balancer leads to.
type Backend struct {
	Addr uint32
	Port uint16
}

// A Connect asks connection tracking about a packet, which goes on in the next table
// with the answer. In ZonePlain it is translated as its connection is, if NAT says so.
type Connect struct {
	Zone   Zone
	NAT    bool
	Commit bool // a connection is made

	// Backends are those of a load balancer: the connection is made with one of them
	// as its destination.
	Backends []Backend
}

// millrace is the verb that does it, in OVN's language. With here, it is done and the
// packet is not taken to the next table.
func (c *Connect) millrace(here bool) string {
	zone := ""
	if c.Zone == ZoneDNAT {
		zone = "dnat"
	}
	switch {
	case c.Backends != nil:
		var to []string
		for _, b := range c.Backends {
			to = append(to, fmt.Sprintf("%s:%d", dotted(b.Addr), b.Port))
		}
		return fmt.Sprintf("ct_lb_mark(backends=%s);", strings.Join(to, ","))
	case here:
		return "ct_commit;"
	case c.Commit:
		return fmt.Sprintf("ct_commit_to_zone(%s);", zone)
	case c.NAT:
		return "ct_lb_mark;"
	case zone != "":
		return fmt.Sprintf("ct_next(%s);", zone)
	}
	return "ct_next;"
}

// openFlow is the action that does it; table is where the packet goes on, 0 if it is
// not taken to one. Load balancers are groups, as OVN has them.
func (c *Connect) openFlow(table, group int) string {
	if c.Backends != nil {
		return fmt.Sprintf("group:%d", group)
	}
	var parts []string
	if c.Commit {
		parts = append(parts, "commit")
	}
	if parts = append(parts, fmt.Sprintf("zone=%d", c.Zone.number())); table != 0 {
		parts = append(parts, fmt.Sprintf("table=%d", table))
	}
	if c.NAT {
		parts = append(parts, "nat")
	}
	return "ct(" + strings.Join(parts, ",") + ")"
}

// group is the group of a load balancer's rule, as ovs-ofctl(8) reads it.
func (r *Rule) group(number int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "group_id=%d,type=select,selection_method=dp_hash", number)
	for i, to := range r.Connect.Backends {
		fmt.Fprintf(&b, ",bucket=bucket_id:%d,weight:100,actions=ct(commit,zone=%d,table=%d,nat(dst=%s:%d),exec(load:1->NXM_NX_CT_MARK[1]))",
			i, r.Connect.Zone.number(), r.Next, dotted(to.Addr), to.Port)
	}
	return b.String()
}

// Groups are the load balancers as groups, for ovs-ofctl add-groups: those that
// WriteOpenFlow's rules speak of.
func (s Set) Groups() []string {
	var groups []string
	for i := range s {
		if c := s[i].Connect; c != nil && c.Backends != nil {
			groups = append(groups, s[i].group(len(groups)+1))
		}
	}
	return groups
}

// millraceState is what a match says of connections, in OVN's language.
func (m *Match) millraceState() []string {
	var parts []string
	for i, name := range stateNames {
		switch bit := State(1) << i; {
		case m.StateBits&bit == 0:
		case m.State&bit != 0:
			parts = append(parts, "ct."+name)
		default:
			parts = append(parts, "!ct."+name)
		}
	}
	return parts
}

// openFlowState is the same in OpenFlow.
func (m *Match) openFlowState() string {
	text := ""
	for i, name := range stateNames {
		switch bit := State(1) << i; {
		case m.StateBits&bit == 0:
		case m.State&bit != 0:
			text += "+" + name
		default:
			text += "-" + name
		}
	}
	return text
}

// Connections that the sets below are for: clients of 10.0.0.0/8 to services.
const (
	clientNet     = 10 << 24
	clientMask    = 0xff << 24
	serverNet     = 172<<24 | 16<<16
	serverMask    = 0xfff << 20
	virtualNet    = 192<<24 | 168<<16
	virtualMask   = 0xffff << 16
	services      = 16
	backends      = 4
	servicePort   = 80
	backendPort   = 8080
	clientsOfPort = 4096
	clientPort    = 1024
)

// Client is client n of a server, for sets without load balancers; there are more
// than 2^27 that differ. Neighbours differ in their addresses.
func Client(n uint32) pktgen.Header {
	return pktgen.Header{
		Src: clientNet | n%clientsOfPort | n/clientsOfPort/60_000<<12, Dst: serverNet | n%services,
		SrcPort: clientPort + uint16(n/clientsOfPort%60_000), DstPort: servicePort,
	}
}

// ServiceClient is client n of a service that a load balancer has.
func ServiceClient(n uint32) pktgen.Header {
	h := Client(n)
	h.Dst = virtualNet | n%services
	return h
}

// Firewall is a stateful firewall of one zone: clients at in may begin connections to
// servers at out, of a protocol, to one port.
func Firewall(proto uint8, in, out string) Set {
	track := func(port string) Rule {
		return Rule{Priority: 10, Match: Match{InPort: port, IPv4: true}, Connect: &Connect{}, Next: 1}
	}
	begin := Match{InPort: in, IPv4: true, Dst: serverNet, DstMask: serverMask, Proto: proto, DstPort: servicePort, DstBits: 0xffff}
	return Set{
		track(in), track(out),
		{Table: 1, Priority: 100, Match: begin.in(StateNew), Connect: &Connect{Commit: true}, Output: out},
		{Table: 1, Priority: 50, Match: Match{InPort: in, IPv4: true}.in(StateEstablished), Output: out},
		{Table: 1, Priority: 50, Match: Match{InPort: out, IPv4: true}.in(StateEstablished), Output: in},
	}
}

// in is a match for packets of connections that are new or established.
func (m Match) in(s State) Match {
	m.State, m.StateBits = s|StateTracked, StateNew|StateEstablished|StateTracked
	return m
}

// Backends are those of service n.
func Backends(n int) []Backend {
	var bs []Backend
	for i := range backends {
		bs = append(bs, Backend{serverNet | uint32(n)<<8 | uint32(i+1), backendPort})
	}
	return bs
}

// A stage is a table of Balanced.
const (
	stageSecurity = iota
	stagePreBalance
	stagePreStateful
	stageHint
	stageACL
	stageBalance
	stageStateful
	stageLookup
	stageOutPreStateful
	stageOutACL
	stageOutStateful
	stageOutput
)

// Registers of Balanced: 0 says that connections are tracked, 1 that one is allowed to
// begin, 2 which way a packet goes, 3 that the second zone has to learn of it.
const (
	toServers = 1
	toClients = 2
)

// Balanced is a pipeline as OVN makes it of a switch with access lists and load
// balancers: 12 tables, two zones, and a new destination for what goes to 16 services
// with 4 backends each. Clients are at in, backends at out. Each direction comes
// through the zone of its sender first, then of its receiver, so replies have their
// source translated in the second.
func Balanced(proto uint8, in, out string) Set {
	s := Set{
		{Table: stageSecurity, Priority: 50, Match: Match{InPort: in, IPv4: true, Src: clientNet, SrcMask: clientMask}, Set: []Assign{{2, toServers}}, Next: stagePreBalance},
		{Table: stageSecurity, Priority: 50, Match: Match{InPort: out, IPv4: true, Src: serverNet, SrcMask: serverMask}, Set: []Assign{{2, toClients}}, Next: stagePreBalance},
		{Table: stagePreBalance, Priority: 10, Match: Match{IPv4: true}, Set: []Assign{{0, 1}}, Next: stagePreStateful},
		{Table: stagePreStateful, Priority: 10, Match: way(toServers), Connect: &Connect{NAT: true}, Next: stageHint},
		{Table: stagePreStateful, Priority: 10, Match: way(toClients), Connect: &Connect{Zone: ZoneDNAT}, Next: stageHint},
		{Table: stageHint, Priority: 10, Match: Match{IPv4: true}.in(StateNew), Set: []Assign{{1, 1}}, Next: stageACL},
		{Table: stageHint, Priority: 10, Match: Match{IPv4: true}.in(StateEstablished), Set: []Assign{{1, 0}}, Next: stageACL},
		{Table: stageACL, Priority: 65, Match: Match{IPv4: true}.in(StateEstablished), Next: stageBalance},
	}
	s = append(s, accessList(proto)...)
	for n := range services {
		m := Match{IPv4: true, Dst: virtualNet | uint32(n), DstMask: full, Proto: proto, DstPort: servicePort, DstBits: 0xffff}
		s = append(s, Rule{Table: stageBalance, Priority: 120, Match: m.in(StateNew), Connect: &Connect{Commit: true, NAT: true, Backends: Backends(n)}, Next: stageStateful})
	}
	return append(s, balancedRest(proto, in, out)...)
}

// way matches IPv4 packets that go one way.
func way(to uint32) Match { return Match{IPv4: true, Reg: 2, RegValue: to, RegMask: full} }

// accessList lets clients of some networks begin connections to services and, of higher
// priority, forbids some ports.
func accessList(proto uint8) Set {
	var s Set
	for i := range 32 {
		m := Match{IPv4: true, Proto: proto, DstPort: uint16(6000 + i), DstBits: 0xffff}
		s = append(s, Rule{Table: stageACL, Priority: 2000, Match: m.in(StateNew)})
	}
	m := Match{IPv4: true, Src: clientNet, SrcMask: clientMask, Dst: virtualNet, DstMask: virtualMask, Proto: proto, DstPort: servicePort, DstBits: 0xffff}
	return append(s,
		Rule{Table: stageACL, Priority: 1000, Match: m.in(StateNew), Next: stageBalance},
		Rule{Table: stageACL, Priority: 1000, Match: toBackends(proto).in(StateNew), Next: stageBalance}, // repeated before there was an answer
	)
}

// toBackends matches what clients send when it has a backend as destination.
func toBackends(proto uint8) Match {
	return Match{IPv4: true, Src: clientNet, SrcMask: clientMask, Dst: serverNet, DstMask: serverMask, Proto: proto, DstPort: backendPort, DstBits: 0xffff}
}

// balancedRest is Balanced from behind its load balancers.
func balancedRest(proto uint8, in, out string) Set {
	known := func(table, next int) Rule {
		return Rule{Table: table, Priority: 65, Match: Match{IPv4: true}.in(StateEstablished), Next: next}
	}
	second := way(toServers)
	second.Reg, second.RegValue = 3, 1
	return Set{
		{Table: stageBalance, Priority: 10, Match: Match{IPv4: true}, Next: stageStateful},
		{Table: stageStateful, Priority: 10, Match: Match{IPv4: true}, Next: stageLookup},
		{Table: stageLookup, Priority: 50, Match: Match{IPv4: true, Dst: serverNet, DstMask: serverMask, Reg: 2, RegValue: toServers, RegMask: full}, Next: stageOutPreStateful},
		{Table: stageLookup, Priority: 50, Match: way(toClients), Next: stageOutPreStateful},
		{Table: stageOutPreStateful, Priority: 10, Match: way(toServers), Connect: &Connect{Zone: ZoneDNAT}, Next: stageOutACL},
		{Table: stageOutPreStateful, Priority: 10, Match: way(toClients), Connect: &Connect{NAT: true}, Next: stageOutACL},
		known(stageOutACL, stageOutStateful),
		{Table: stageOutACL, Priority: 1000, Match: toBackends(proto).in(StateNew), Set: []Assign{{3, 1}}, Next: stageOutStateful},
		{Table: stageOutStateful, Priority: 100, Match: second, Connect: &Connect{Zone: ZoneDNAT, Commit: true}, Next: stageOutput},
		{Table: stageOutStateful, Priority: 10, Match: Match{IPv4: true}, Next: stageOutput},
		{Table: stageOutput, Priority: 50, Match: way(toServers), Output: out},
		{Table: stageOutput, Priority: 50, Match: way(toClients), Output: in},
	}
}
