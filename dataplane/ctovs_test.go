package dataplane

import (
	"encoding/binary"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/ovstest"
)

// ovs is Open vSwitch.
type ovs struct {
	*ovstest.Switch
	t testing.TB
}

// newOVS starts Open vSwitch with the pipeline. It does not check sequence numbers, as we do not.
func newOVS(t testing.TB) *ovs {
	o := &ovs{ovstest.Start(t), t}
	o.Flows(ovsPipeline())
	o.Appctl("dpctl/ipf-set-min-frag", "v4", strconv.Itoa(fragmentSize))
	o.Appctl("dpctl/ct-disable-tcp-seq-chk")
	return o
}

// inFrames are packets as frames.
func inFrames(list []framed) (frames [][]byte) {
	for _, p := range list {
		frames = append(frames, append([]byte{2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, byte(macOf(p.side)), 8, 0}, p.ip...))
	}
	return frames
}

// readNotes reads what the pipeline has noted in the Ethernet address.
func readNotes(f []byte) (ip []byte, state, then byte, mark uint32) {
	return f[14:], f[5], f[4], binary.BigEndian.Uint32(f)
}

func (o *ovs) exchange(list []framed) [][]byte { return o.Exchange(inFrames(list)) }

func (o *ovs) read(f []byte) (ip []byte, state, then byte, mark uint32) { return readNotes(f) }

// ovsLine is a connection as dpctl/dump-conntrack -m shows it.
var ovsLine = regexp.MustCompile(`^(\w+),orig=\(([^)]*)\),reply=\(([^)]*)\)([^(]*)(?:\(([^)]*)\))?`)

// ovsField is a field of it.
var ovsField = regexp.MustCompile(`(\w+)=([^,]*)`)

// fieldsOf reads the fields of a text.
func fieldsOf(text string) map[string]string {
	m := map[string]string{}
	for _, f := range ovsField.FindAllStringSubmatch(text, -1) {
		m[f[1]] = f[2]
	}
	return m
}

// number reads a number of OVS's; what is not there is 0.
func (o *ovs) number(text string) uint64 {
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		o.t.Fatal(err)
	}
	return n
}

func (o *ovs) table() (list []conn) {
	protocols := map[string]byte{"tcp": conntrack.ProtoTCP, "udp": conntrack.ProtoUDP, "icmp": conntrack.ProtoICMP}
	for line := range strings.Lines(o.Appctl("dpctl/dump-conntrack", "-m")) {
		m := ovsLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			o.t.Fatalf("connection of Open vSwitch: %q", line)
		}
		rest, states := fieldsOf(m[4]), fieldsOf(m[5])
		c := conn{zone: int(o.number(rest["zone"])), proto: protocols[m[1]], mark: uint32(o.number(rest["mark"])), label: o.number(rest["labels"])}
		c.orig, c.reply = o.pair(m[2]), o.pair(m[3])
		c.state = states["state_orig"] + "/" + states["state_reply"]
		list = append(list, c)
	}
	return list
}

// pair reads one direction of a connection.
func (o *ovs) pair(text string) pair {
	f := fieldsOf(text)
	at := func(addr, port string) netip.AddrPort {
		a, err := netip.ParseAddr(f[addr])
		if err != nil {
			o.t.Fatalf("connection of Open vSwitch: %q: %v", text, err)
		}
		return netip.AddrPortFrom(a, uint16(o.number(f[port])))
	}
	return directionOf(f["type"], at)
}

// flush removes connections, and lets time pass so that fragments are given up. They come
// out with the next packet, which itself goes nowhere.
func (o *ovs) flush() {
	o.Appctl("dpctl/flush-conntrack")
	o.Appctl("time/warp", "60000", "60000")
	nothing := ipPacket(conntrack.ProtoUDP, 0, 0, 0, pair{netip.MustParseAddrPort("10.1.0.1:1"), netip.MustParseAddrPort("10.1.0.2:1")}, make([]byte, 20))
	o.exchange([]framed{{clientSide, nothing}})
	o.Appctl("dpctl/flush-conntrack")
}

// ovsStates says how Open vSwitch, which has a state for each end, calls the states of TCP.
var ovsStates = map[string]*regexp.Regexp{
	"SYN_SENT":    regexp.MustCompile(`^SYN_SENT/CLOSED$`),
	"SYN_RECV":    regexp.MustCompile(`^ESTABLISHED/SYN_SENT$`),
	"ESTABLISHED": regexp.MustCompile(`^(ESTABLISHED/ESTABLISHED)$`),
	"FIN_WAIT":    regexp.MustCompile(`^(CLOSING/ESTABLISHED|ESTABLISHED/CLOSING)$`),
	"CLOSE_WAIT":  regexp.MustCompile(`^(FIN_WAIT_2/ESTABLISHED|ESTABLISHED/FIN_WAIT_2)$`),
	"LAST_ACK":    regexp.MustCompile(`^(FIN_WAIT_2/CLOSING|CLOSING/FIN_WAIT_2|CLOSING/CLOSING)$`),
	"TIME_WAIT":   regexp.MustCompile(`^FIN_WAIT_2/FIN_WAIT_2$`),
	"CLOSE":       regexp.MustCompile(`^TIME_WAIT/TIME_WAIT$`),
}

// meant makes a known difference.
func meant(cause, why string) known { return known{regexp.MustCompile(cause), why} }

// unlikeOVS are the differences to Open vSwitch that are meant.
var unlikeOVS = []known{
	meant(`^tcp SYN_SENT( unreplied)? [<>](A|FA|SA): inv \| est`, "a SYN that was not answered is followed by SYN or RST only, as in Linux; OVS takes what comes"),
	meant(`^tcp SYN_SENT( unreplied)? <S: est\|rpl \| (new|nothing)$`, "SYNs that cross are an answer to each other, as in Linux; to OVS the second one is new too"),
	meant(`^tcp ESTABLISHED unreplied [<>]\w+: new \| est$|^tcp SYN_SENT unreplied >RA?: new \| est$`, "a connection is new until the other side has sent something, as in Linux; to OVS, only until the second packet"),
	meant(`^tcp none [<>](FA|R|RA): inv \| (new|nothing)$`, "FIN or RST begin no connection, as in Linux; in OVS they do"),
	meant(`^tcp gone |^tcp: connections \[\] \| \[zone[^\[]*TIME_WAIT/TIME_WAIT|^tcp \w+ unreplied <RA?: est\|rpl \| est\|rpl, mark$`, "a connection that was refused is over at once, as in Linux; OVS keeps it for a while"),
	meant(`^tcp \w+( unreplied)? <S: (inv|nothing) \| (est\|rpl|new|nothing|)$`, "a SYN against the direction of an old connection is invalid, as in Linux"),
	meant(`^tcp TIME_WAIT <S: nothing \| inv$`, "a SYN from the server ends a connection that is over; in OVS 3.1 its translation's way back stays until a sweep, and what comes to it is invalid"),
	meant(`^tcp \w+( unreplied)? >SA: inv \| est$`, "a SYN with ACK from the side that has begun is invalid, as in Linux"),
	meant(`^tcp (CLOSE|TIME_WAIT|LAST_ACK|CLOSE_WAIT|FIN_WAIT) >S: (new \| est|est \| new)$|^tcp TIME_WAIT <S: new \| est\|rpl$`, "a SYN after the end begins another connection; OVS sees the end when both ends have acknowledged anything behind a FIN"),
	meant(`^tcp (CLOSE|TIME_WAIT) >S: new \| new, contents$|^tcp: connection of class [56], replies`, otherPort),
	meant(`^tcp: state (CLOSE_WAIT|LAST_ACK|TIME_WAIT) \| (\w+/(CLOSING|FIN_WAIT_2)|(CLOSING|FIN_WAIT_2)/\w+)$`, "FINs and their acknowledgements count without regard to their direction, as in Linux; OVS has states for each end"),
	meant(`^tcp: state (ESTABLISHED|SYN_SENT) \| (SYN_SENT/CLOSED|ESTABLISHED/SYN_SENT)$|^tcp: state SYN_RECV \| ESTABLISHED/ESTABLISHED$`,
		"a connection that was picked up in the middle, or whose SYN was answered by something else, has one state for both ends, as in Linux; OVS has one for each"),
	meant(`^icmp none >\w+: new \| new, contents$`, "identifiers of ICMP are translated if they clash, as in Linux; OVS does not commit such a connection"),
	meant(`^(udp|icmp) .*incomplete: `, "fragments go on as they come; OVS keeps them until all are there"),
	meant(`^(udp|icmp) .*(disordered|fragments): .*, bad "" \| "pieces differ`, "each fragment has the mark of its connection; OVS 3.1 gives it to some of them"),
	meant(`^(udp|icmp) .*disordered: (\S*) \| (inv|part|nothing)$`, "a fragment that comes twice goes on twice; OVS 3.1 makes the rest of the datagram invalid, or drops it"),
}

// TestConntrackAgainstOVS compares verdicts, packets and tables with Open vSwitch's userspace datapath,
// without checks of sequence numbers.
func TestConntrackAgainstOVS(t *testing.T) {
	if testing.Short() {
		t.Skip("short run: leaves out real peers")
	}
	k := newContest(t, newOurs(t, false), newOVS(t), unlikeOVS)
	k.sameState = ovsStates
	k.w.quoteMin = 20 // OVS 3.1 writes behind the end of packets that quote less than a header of TCP
	k.run()
}
