package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/netnstest"
	"millrace/dataplane/nfttest"
)

// linux is the kernel as a router with nftables between two TUN devices, in the test's
// own network namespace. It does in one zone what the pipeline does in one or two.
type linux struct {
	t    testing.TB
	tuns [2]int
}

// newLinux makes the router. With windows, it checks sequence numbers.
func newLinux(t testing.TB, windows bool) *linux {
	netnstest.Need(t)
	l := &linux{t: t}
	for i := range l.tuns {
		l.tuns[i] = l.tun(fmt.Sprintf("side%d", i))
	}
	netnstest.IP(t, "addr add 10.0.0.1/24 dev side0")
	netnstest.IP(t, "addr add 198.51.0.1/24 dev side1")
	for _, net := range strings.Fields("10.0.0.0/8 203.0.113.0/24 203.0.114.0/24") {
		netnstest.IP(t, "route add %s dev side0", net)
	}
	for _, net := range strings.Fields("198.51.0.0/16 192.0.2.0/24") {
		netnstest.IP(t, "route add %s dev side1", net)
	}
	l.settings(windows)
	l.ruleset()
	return l
}

// tun makes a TUN device, which is up.
func (l *linux) tun(name string) int {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		l.t.Skipf("needs TUN devices: %v", err)
	}
	l.t.Cleanup(func() { _ = unix.Close(fd) })
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		l.t.Skipf("needs TUN devices: %s: %v", name, err)
	}
	netnstest.IP(l.t, "link set %s up", name)
	return fd
}

// settings has the kernel forward, verify no checksums, and keep connections for longer
// than the test takes on a busy machine.
func (l *linux) settings(windows bool) {
	values := map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/ipfrag_time": "3600", "net/ipv4/ipfrag_high_thresh": "67108864", "net/netfilter/nf_conntrack_checksum": "0",
		"net/netfilter/nf_conntrack_tcp_be_liberal": "1", "net/netfilter/nf_conntrack_tcp_ignore_invalid_rst": "0",
	}
	if windows {
		values["net/netfilter/nf_conntrack_tcp_be_liberal"] = "0"
	}
	for _, state := range strings.Fields("close close_wait fin_wait last_ack max_retrans syn_recv syn_sent time_wait unacknowledged") {
		values["net/netfilter/nf_conntrack_tcp_timeout_"+state] = "3600"
	}
	for _, proto := range strings.Fields("udp_timeout udp_timeout_stream icmp_timeout generic_timeout") {
		values["net/netfilter/nf_conntrack_"+proto] = "3600"
	}
	for name, value := range values {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			l.t.Skipf("needs connection tracking in the kernel: %v", err)
		}
	}
}

// nftEqual compares bytes of the IP header with a value.
func nftEqual(offset uint32, value ...byte) []byte {
	load := nfttest.Expr("payload", nfttest.Number(unix.NFTA_PAYLOAD_DREG, 1), nfttest.Number(unix.NFTA_PAYLOAD_BASE, 1), nfttest.Number(unix.NFTA_PAYLOAD_OFFSET, offset), nfttest.Number(unix.NFTA_PAYLOAD_LEN, uint32(len(value))))
	return append(load, nftCompare(0, value)...)
}

// nftCompare compares register 1 with a value: equal with op 0, not with 1.
func nftCompare(op uint32, value []byte) []byte {
	return nfttest.Expr("cmp", nfttest.Number(unix.NFTA_CMP_SREG, 1), nfttest.Number(unix.NFTA_CMP_OP, op), nfttest.Nest(unix.NFTA_CMP_DATA, nfttest.Attr(unix.NFTA_DATA_VALUE, value)))
}

// nftState holds for packets with one of these bits in their state.
func nftState(bits uint32) []byte {
	mask, zero := binary.NativeEndian.AppendUint32(nil, bits), make([]byte, 4)
	e := nfttest.Expr("ct", nfttest.Number(unix.NFTA_CT_DREG, 1), nfttest.Number(unix.NFTA_CT_KEY, unix.NFT_CT_STATE))
	e = append(e, nfttest.Expr("bitwise", nfttest.Number(unix.NFTA_BITWISE_SREG, 1), nfttest.Number(unix.NFTA_BITWISE_DREG, 1), nfttest.Number(unix.NFTA_BITWISE_LEN, 4),
		nfttest.Nest(unix.NFTA_BITWISE_MASK, nfttest.Attr(unix.NFTA_DATA_VALUE, mask)), nfttest.Nest(unix.NFTA_BITWISE_XOR, nfttest.Attr(unix.NFTA_DATA_VALUE, zero)))...)
	return append(e, nftCompare(1, zero)...)
}

// nftDirection holds for packets in a direction of their connection.
func nftDirection(dir byte) []byte {
	return append(nfttest.Expr("ct", nfttest.Number(unix.NFTA_CT_DREG, 1), nfttest.Number(unix.NFTA_CT_KEY, unix.NFT_CT_DIRECTION)), nftCompare(0, []byte{dir})...)
}

// nftFrom holds for packets of a device.
func nftFrom(device string) []byte {
	name := make([]byte, 16)
	copy(name, device)
	return append(nfttest.Expr("meta", nfttest.Number(unix.NFTA_META_DREG, 1), nfttest.Number(unix.NFTA_META_KEY, unix.NFT_META_IIFNAME)), nftCompare(0, name)...)
}

// nftLoad writes a value into a register.
func nftLoad(register uint32, value []byte) []byte {
	return nfttest.Expr("immediate", nfttest.Number(unix.NFTA_IMMEDIATE_DREG, register), nfttest.Nest(unix.NFTA_IMMEDIATE_DATA, nfttest.Attr(unix.NFTA_DATA_VALUE, value)))
}

// nftDrop drops.
func nftDrop() []byte {
	return nfttest.Expr("immediate", nfttest.Number(unix.NFTA_IMMEDIATE_DREG, 0), nfttest.Nest(unix.NFTA_IMMEDIATE_DATA, nfttest.Nest(unix.NFTA_DATA_VERDICT, nfttest.Number(unix.NFTA_VERDICT_CODE, 0))))
}

// nftNAT translates: the source with kind 0, the destination with 1, to addresses and, unless they are
// 0, ports.
func nftNAT(kind uint32, from, to string, low, high uint16) (e []byte) {
	first, last := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	e = append(nftLoad(1, first[:]), nftLoad(2, last[:])...)
	parts := [][]byte{nfttest.Number(unix.NFTA_NAT_TYPE, kind), nfttest.Number(unix.NFTA_NAT_FAMILY, unix.AF_INET), nfttest.Number(unix.NFTA_NAT_REG_ADDR_MIN, 1), nfttest.Number(unix.NFTA_NAT_REG_ADDR_MAX, 2)}
	if low != 0 {
		e = append(e, nftLoad(3, binary.BigEndian.AppendUint16(nil, low))...)
		e = append(e, nftLoad(4, binary.BigEndian.AppendUint16(nil, high))...)
		parts = append(parts, nfttest.Number(unix.NFTA_NAT_REG_PROTO_MIN, 3), nfttest.Number(unix.NFTA_NAT_REG_PROTO_MAX, 4))
	}
	return append(e, nfttest.Expr("nat", parts...)...)
}

// nftNote writes a state into the type of service.
func nftNote(state conntrack.State) []byte {
	return append(nftLoad(1, []byte{0x45, byte(state)}), nfttest.Expr("payload", nfttest.Number(unix.NFTA_PAYLOAD_SREG, 1), nfttest.Number(unix.NFTA_PAYLOAD_BASE, 1), nfttest.Number(unix.NFTA_PAYLOAD_OFFSET, 0),
		nfttest.Number(unix.NFTA_PAYLOAD_LEN, 2), nfttest.Number(unix.NFTA_PAYLOAD_CSUM_TYPE, 1), nfttest.Number(unix.NFTA_PAYLOAD_CSUM_OFFSET, 10))...)
}

// Bits of the kernel's state.
const (
	nftInvalid = 1 << iota
	nftEstablished
	nftRelated
	nftNew
)

// ruleset puts rules in force that do what the pipeline does.
func (l *linux) ruleset() {
	b := &nfttest.Batch{}
	b.Begin()
	b.Table("t")
	chain := func(name, kind string, hook uint32, priority int32) { b.Chain("t", name, kind, hook, priority) }
	rule := func(chain string, exprs ...[]byte) { b.Rule("t", chain, exprs...) }
	chain("before", "nat", 0, -100)
	chain("through", "filter", 2, 0)
	chain("behind", "nat", 4, 100)
	for class, server := range map[byte]string{classServer: "198.51.5.1", classBoth: "198.51.6.1"} {
		rule("before", nftFrom("side0"), nftEqual(12, 10, class), nftEqual(9, conntrack.ProtoICMP), nftNAT(1, server, server, 0, 0))
		rule("before", nftFrom("side0"), nftEqual(12, 10, class), nftNAT(1, server, server, 8080, 8080))
	}
	for class, source := range map[byte]string{classSource: "203.0.113.3", classBoth: "203.0.113.6", classTwo: "203.0.113.7"} {
		rule("behind", nftEqual(12, 10, class), nftNAT(0, source, source, 0, 0))
	}
	rule("behind", nftEqual(12, 10, classRange), nftNAT(0, "203.0.114.1", "203.0.114.3", 20000, 20499))
	for class := byte(1); class < classes; class++ {
		if class != classOpen {
			rule("through", nftFrom("side1"), nftEqual(12, 198, 51, class), nftState(nftNew), nftDrop())
		}
	}
	const trk = conntrack.StateTracked
	rule("through", nftState(nftInvalid), nftNote(trk|conntrack.StateInvalid))
	for dir, reply := range []conntrack.State{0, conntrack.StateReply} {
		rule("through", nftState(nftNew), nftDirection(byte(dir)), nftNote(trk|conntrack.StateNew|reply))
		rule("through", nftState(nftEstablished), nftDirection(byte(dir)), nftNote(trk|conntrack.StateEstablished|reply))
		rule("through", nftState(nftRelated), nftDirection(byte(dir)), nftNote(trk|conntrack.StateRelated|reply))
	}
	b.End()
	l.commit(b)
}

// commit sends a batch.
func (l *linux) commit(b *nfttest.Batch) {
	if err := b.Commit(); err != nil {
		l.t.Skipf("needs %v", err)
	}
}

// linuxWindow is how many packets are under way at a time.
const linuxWindow = 64

// exchange sends packets in by their sides' devices, and returns what comes out of both.
// All are handled by one processor, so one packet behind them tells when they are through.
func (l *linux) exchange(list []framed) (got [][]byte) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		l.t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if old.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &old) }()
	for len(list) > 0 {
		n := min(linuxWindow, len(list))
		for _, p := range list[:n] {
			l.send(p.side, p.ip)
		}
		got = l.await(got)
		list = list[n:]
	}
	return got
}

// send gives the kernel a packet.
func (l *linux) send(side int, ip []byte) {
	if _, err := unix.Write(l.tuns[side], ip); err != nil {
		l.t.Fatalf("send to the kernel: %v", err)
	}
}

// linuxMark follows packets: of a protocol that is nobody's (RFC 3692), from the client's side.
var linuxMark = ipPacket(253, 0, 0, 0, pair{netip.MustParseAddrPort("10.0.0.9:0"), netip.MustParseAddrPort("198.51.0.9:0")}, make([]byte, 8))

// await takes what comes out until the mark has come.
func (l *linux) await(got [][]byte) [][]byte {
	l.send(clientSide, linuxMark)
	deadline := time.Now().Add(netnstest.Patience)
	for marked := false; ; {
		for side, fd := range l.tuns {
			for {
				b := make([]byte, 2048)
				n, err := unix.Read(fd, b)
				if errors.Is(err, unix.EAGAIN) {
					break
				}
				if err != nil {
					l.t.Fatalf("receive from the kernel: %v", err)
				}
				switch {
				case b[0]>>4 != 4: // IPv6's own
				case side == serverSide && b[9] == 253:
					marked = true
				default:
					got = append(got, b[:n])
				}
			}
			if marked && side == clientSide {
				return got // both devices were looked at since
			}
		}
		if time.Now().After(deadline) {
			l.t.Fatal("the kernel does not come to an end")
		}
	}
}

// read reads what the rules have noted in the type of service.
func (l *linux) read(ip []byte) (_ []byte, state, then byte, mark uint32) { return ip, ip[1], 0, 0 }

// linuxLine is a connection of /proc/net/nf_conntrack.
var linuxLine = regexp.MustCompile(`^ipv4 +2 (\w+) +\d+ \d+ ([A-Z_0-9]*) ?(src=[^\[]*?)(?: \[UNREPLIED\])? (src=[^\[]*)`)

func (l *linux) table() (list []conn) {
	b, err := os.ReadFile("/proc/net/nf_conntrack")
	if err != nil {
		l.t.Fatal(err)
	}
	protocols := map[string]byte{"tcp": conntrack.ProtoTCP, "udp": conntrack.ProtoUDP, "icmp": conntrack.ProtoICMP}
	for line := range strings.Lines(string(b)) {
		m := linuxLine.FindStringSubmatch(line)
		if m == nil || protocols[m[1]] == 0 {
			if !strings.Contains(line, "unknown") && !strings.HasPrefix(line, "ipv6") {
				l.t.Fatalf("connection of the kernel: %q", line)
			}
			continue
		}
		list = append(list, conn{proto: protocols[m[1]], orig: l.pair(m[3]), reply: l.pair(m[4]), state: m[2]})
	}
	return list
}

// pair reads one direction of a connection.
func (l *linux) pair(text string) pair {
	f := map[string]string{}
	for _, word := range strings.Fields(text) {
		k, v, _ := strings.Cut(word, "=")
		if f[k] == "" {
			f[k] = v
		}
	}
	at := func(addr, port string) netip.AddrPort {
		a, err := netip.ParseAddr(f[addr])
		n, err2 := strconv.ParseUint("0"+f[port], 10, 16)
		if err := errors.Join(err, err2); err != nil {
			l.t.Fatalf("connection of the kernel: %q: %v", text, err)
		}
		return netip.AddrPortFrom(a, uint16(n))
	}
	return directionOf(f["type"], at)
}

// flush removes the connections of the namespace (linux/netfilter/nfnetlink_conntrack.h).
func (l *linux) flush() {
	b := &nfttest.Batch{}
	b.Add(unix.NFNL_SUBSYS_CTNETLINK<<8|2, unix.NLM_F_REQUEST|unix.NLM_F_ACK, unix.AF_INET, 0)
	l.commit(b)
}

// unlikeLinux are the differences to Linux that are meant: in any case, without checks of sequence
// numbers, and with them.
var (
	unlikeLinux = []known{
		meant(`^tcp.*, behind a SYN`, "a SYN within a connection that is not over is not remembered; Linux begins another one if SYN and ACK follow"),
		meant(`^tcp (TIME_WAIT|CLOSE) .*: (est\S*|rel\S*|inv) \| (new|inv), two zones`, "a SYN that ends a connection in the first of two zones is dropped before it comes to the second; Linux has one zone"),
		meant(`^(udp|icmp) .*incomplete: (part|nothing) \| nothing`, "fragments go on as they come; Linux keeps them until all are there"),
	}
	unlikeLinuxLoose = append([]known{
		meant(`^tcp \w+ [<>]RA?: est(\|rpl)? \| inv|^tcp.*, behind a RST`, "without checks of sequence numbers, any RST ends a connection; Linux looks at its number in any case"),
	}, unlikeLinux...)
	unlikeLinuxStrict = append([]known{
		meant(`^tcp (CLOSE|TIME_WAIT|LAST_ACK) [<>]S: new \| (est|inv).*, behind a RST`, "a SYN after the end begins another connection; Linux keeps the old one if it did not see who closed it"),
		meant(`^tcp (ESTABLISHED|SYN_RECV) [<>]RA?: est(\|rpl)? \| inv`, "an RST with the number that is waited for ends a connection whatever it acknowledges, for its receiver, too (RFC 9293 3.10.7.4), and any RST one that was picked up in the middle; Linux looks at the numbers"),
		meant(`^tcp.*, behind a RST`, "an RST with its sender's next number ends a connection; Linux wants the one that is waited for, unless it follows directly on a segment of the same end"),
		meant(`^tcp.*, behind a false answer`, "a SYN with ACK that is invalid leaves nothing behind; Linux remembers its window, and does not believe the right one"),
	}, unlikeLinux...)
)

// TestConntrackAgainstLinux compares verdicts, packets and states with Linux's nf_conntrack and NAT,
// without checks of sequence numbers.
func TestConntrackAgainstLinux(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	k := newContest(t, newOurs(t, false), newLinux(t, false), unlikeLinuxLoose)
	k.w.quoteMin = 8
	k.oneZone = true
	k.run()
}

// TestConntrackAgainstLinuxWindows is TestConntrackAgainstLinux with checks of sequence numbers.
func TestConntrackAgainstLinuxWindows(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	k := newContest(t, newOurs(t, true), newLinux(t, true), unlikeLinuxStrict)
	k.w.quoteMin = 8
	k.oneZone = true
	k.run()
}
