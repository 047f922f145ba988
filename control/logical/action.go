package logical

import "net/netip"

// Action is one action: *Load, *Move, *Exchange, *Stack, *Next, *Simple,
// *Block, *Zone, *NAT, *LoadBalance, *Select, *Result, *GetNeighbour,
// *PutNeighbour, *LookupNeighbour, *GetFDB, *PutFDB, *LookupFDB, *PutOptions,
// *DHCPRelay, *CheckPacketLarger, *SetQueue, *SetMeter, *Log, *Sample,
// *TriggerEvent, *BindVPort, *HandleSvcCheck, *FwdGroup, *CommitECMP,
// *CommitAffinity, *Mirror, *UseMeter or *UseGroup. Actions are immutable once
// parsed.
type Action interface {
	// appendAction appends the action's text with its semicolon.
	appendAction(b []byte) []byte
}

// Actions is a parsed list of actions.
type Actions struct {
	List []Action // empty: drop
	// Prereq must hold besides the match, or is nil: what the list's fields
	// and verbs need, each once.
	Prereq Expr
}

// Verb is the name of an action whose node serves several.
type Verb string

// Load sets bits to a constant: a number, perhaps masked, or a port's name.
type Load struct {
	To    Ref
	Value Constant
}

// Move copies bits.
type Move struct{ To, From Ref }

// Exchange exchanges the values of two references.
type Exchange struct{ A, B Ref }

// Stack is push(field) or pop(field).
type Stack struct {
	Verb Verb // "push" or "pop"
	Ref  Ref
}

// Pipeline is the half of a datapath's tables that an action speaks of.
type Pipeline uint8

// The pipelines.
const (
	PipelineSame Pipeline = iota // the one that the action is in
	PipelineIngress
	PipelineEgress
)

// NextTable is Next.Table for the table after the one that the action is in.
const NextTable = -1

// Next goes on in a table of the same datapath.
type Next struct {
	Pipeline Pipeline
	Table    int // or NextTable
}

// Simple is an action without arguments: output, ct_clear, ip.ttl--, igmp,
// ct_snat_to_vip, mac_cache_use, handle_dhcpv6_reply, handle_bfd_msg,
// flood_remote.
type Simple struct{ Verb Verb }

// Block is an action with actions inside: clone, arp, icmp4, icmp4_error,
// icmp6, icmp6_error, tcp_reset, sctp_abort, nd_na, nd_na_router, nd_ns,
// reject, ct_commit.
type Block struct {
	Verb Verb
	List []Action
}

// CTZone is a connection tracking zone of a datapath.
type CTZone uint8

// The zones.
const (
	ZoneDefault CTZone = iota // the verb's own
	ZoneDNAT
	ZoneSNAT
)

// Zone is ct_next, ct_commit_nat or ct_commit_to_zone. All resume in the next
// table.
type Zone struct {
	Verb Verb
	Zone CTZone
}

// NAT is ct_dnat, ct_snat, or one of them in the common zone. Without an
// address it applies the NAT of a known connection; with one it makes one. It
// resumes in the next table.
type NAT struct {
	Verb     Verb
	Addr     netip.Addr // not valid: none
	PortLow  uint16     // 0: any port
	PortHigh uint16     // 0: only PortLow
}

// Backend is an end point that LoadBalance chooses from.
type Backend struct {
	LogicalPort string     // of ct_lb_mark_local: the port that it is behind
	Addr        netip.Addr // IPv4 or IPv6
	Port        uint16     // 0: keep the packet's
}

// LoadBalance is ct_lb, ct_lb_mark or ct_lb_mark_local. Without backends it
// applies the NAT of a known connection. It resumes in the next table.
type LoadBalance struct {
	Verb       Verb
	Backends   []Backend
	HashFields string // comma-separated fields to hash; "": the five-tuple
	SkipSNAT   bool
	ForceSNAT  bool
}

// Member is an alternative of Select.
type Member struct {
	ID     uint16
	Weight uint16 // not 0
}

// defaultWeight is that of a member that states none.
const defaultWeight = 100

// Select stores the id of a member in To, chosen by hash and weight. It
// resumes in the next table.
type Select struct {
	To         Ref // at least 16 bits
	Members    []Member
	HashFields string // comma-separated fields to hash; "": symmetric layer 4
}

// Result stores what the verb finds in To: dns_lookup, chk_lb_hairpin,
// chk_lb_hairpin_reply, check_in_port_sec, check_out_port_sec, chk_ecmp_nh_mac,
// chk_ecmp_nh, chk_lb_aff (1 bit), ct_nw_dst (32), ct_ip6_dst (128), ct_tp_dst
// (16), ct_proto, ct_state_save (8). chk_evpn_arp (1) has the argument Arg.
type Result struct {
	Verb Verb
	To   Ref
	Arg  Ref // of chk_evpn_arp, else zero
}

// GetNeighbour is get_arp or get_nd: eth.dst from the MAC bindings of Port.
type GetNeighbour struct {
	Verb     Verb
	Port, IP Ref
}

// PutNeighbour is put_arp or put_nd: it learns a MAC binding.
type PutNeighbour struct {
	Verb          Verb
	Port, IP, MAC Ref
}

// LookupNeighbour is lookup_arp or lookup_nd, or, without MAC, lookup_arp_ip or
// lookup_nd_ip: To says whether the binding exists.
type LookupNeighbour struct {
	Verb          Verb
	To            Ref // one bit
	Port, IP, MAC Ref // MAC.Symbol is nil for the verbs without one
}

// GetFDB is get_fdb or get_remote_fdb: To gets the port that MAC is behind.
type GetFDB struct {
	Verb    Verb
	To, MAC Ref
}

// PutFDB learns that MAC is behind Port.
type PutFDB struct{ Port, MAC Ref }

// LookupFDB says in To whether MAC is known to be behind Port.
type LookupFDB struct{ To, Port, MAC Ref }

// Option is an option of DHCP, of router advertisements, or of an event.
type Option struct {
	Name   string
	Code   int        // number of the option in its protocol
	Values []Constant // numbers or strings, at least one
	Braces bool       // they were written as a set
}

// PutOptions is put_dhcp_opts, put_dhcpv6_opts or put_nd_ra_opts: To says
// whether the packet was a request that became the reply.
type PutOptions struct {
	Verb    Verb
	To      Ref // one bit
	Options []Option
}

// DHCPRelay is dhcp_relay_req_chk or dhcp_relay_resp_chk.
type DHCPRelay struct {
	Verb          Verb
	To            Ref // one bit
	Relay, Server netip.Addr
}

// CheckPacketLarger says in To whether the frame, with its Ethernet header, is
// longer than Bytes.
type CheckPacketLarger struct {
	To    Ref // one bit
	Bytes uint16
}

// SetQueue chooses the egress queue.
type SetQueue struct{ ID uint16 }

// SetMeter limits the rule's packets.
type SetMeter struct {
	Rate  uint64 // kilobits per second, not 0
	Burst uint64 // kilobits, 0: the default
}

// Log writes a line about the packet.
type Log struct {
	Name     string
	Severity string // alert, warning, notice, info or debug
	Verdict  string // allow, drop, reject or pass
	Meter    string
}

// Sample sends the packet to a set of IPFIX collectors.
type Sample struct {
	Probability  uint16 // of 65535, not 0
	CollectorSet uint32
	ObsDomain    uint8
	ObsPoint     uint32
	Cookie       bool // the observation point is the rule's cookie
	ObsPointFrom Ref  // if its symbol is not nil: 32 bits to take it from
}

// TriggerEvent reports an event to the database.
type TriggerEvent struct {
	Event   string
	Options []Option
}

// BindVPort claims the virtual port VPort for the port that Parent holds.
type BindVPort struct {
	VPort  string
	Parent Ref
}

// HandleSvcCheck takes the reply of a service monitor's probe.
type HandleSvcCheck struct{ Port Ref }

// FwdGroup outputs to one of the child ports.
type FwdGroup struct {
	Liveness bool
	Ports    []string
}

// CommitECMP remembers the next hop of a connection.
type CommitECMP struct {
	IPv6  bool
	Proto string // tcp, udp or sctp
}

// CommitAffinity makes a client stay with a backend.
type CommitAffinity struct {
	VIP, Backend         netip.Addr
	VIPPort, BackendPort uint16
	Proto                string // tcp, udp or sctp; "" if VIPPort is 0
	Timeout              uint16 // seconds without a packet
}

// Mirror copies the packet to a port.
type Mirror struct{ Port string }

// UseMeter is meter("Name"): packets beyond the rate of that meter are dropped.
// OVN has no such verb: it is for rows of Flow.
type UseMeter struct{ Name string }

// UseGroup is group("Name"): the actions of one bucket of that group run, chosen
// by hash. OVN has no such verb: it is for rows of Flow.
type UseGroup struct{ Name string }
