package acceptance

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	affineClients = 20 // addresses of clients: that none moves when it could is a chance of one in 500,000
	affineTimeout = 3 * time.Second
)

// affine are the rules of a load balancer with some backends whose clients stay where they
// are, in OVN's stages: look, balance, learn.
func (l *tcpLab) affine(which ...int) {
	l.t.Helper()
	vip := fmt.Sprintf("ip4.dst == %s && tcp.dst == %d", virtualIP, virtualPort)
	lines := []string{
		`table=0 priority=10 match="ip4" actions="ct_lb_mark;"`,
		`table=1 priority=20 match="ct.new && inport == \"cli\" && ` + vip + `" actions="reg9[6] = chk_lb_aff(); next;"`,
		`table=1 priority=10 match="ip4" actions="next;"`,
		`table=2 priority=10 match="ct.est && inport == \"cli\"" actions="next(table=4);"`,
		`table=2 priority=10 match="ct.est && inport == \"srv\"" actions="outport = \"cli\"; output;"`,
		`table=3 priority=10 match="ip4" actions="next;"`,
		`table=4 priority=10 match="inport == \"cli\"" actions="outport = \"srv\"; output;"`,
	}
	var to []string
	for _, i := range which {
		ip := fmt.Sprintf(backendIP, i+1)
		backend := fmt.Sprintf("%s:%d", ip, serverPort)
		to = append(to, backend)
		lines = append(lines,
			fmt.Sprintf(`table=2 priority=150 match="reg9[6] == 1 && ct.new && %s && reg4 == %s && reg2[0..15] == %d" actions="ct_lb_mark(backends=%s);"`, vip, ip, serverPort, backend),
			fmt.Sprintf(`table=3 priority=100 match="reg9[6] == 0 && ct.new && ip4.dst == %s && tcp.dst == %d" actions="commit_lb_aff(vip=\"%s:%d\", backend=\"%s\", proto=tcp, timeout=%d); next;"`,
				ip, serverPort, virtualIP, virtualPort, backend, int(affineTimeout.Seconds())))
	}
	lines = append(lines, fmt.Sprintf(`table=2 priority=120 match="ct.new && %s" actions="ct_lb_mark(backends=%s);"`, vip, strings.Join(to, ",")))
	l.rules(lines...)
}

// visit has each client's address make four connections, closes them, and returns the
// backends that each has come to.
func (l *tcpLab) visit() (at [affineClients][]uint16) {
	l.t.Helper()
	clients := l.connect(4*affineClients, fmt.Sprintf("%s:%d", virtualIP, virtualPort), func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(clientIP, i%affineClients+1)), 0)
	})
	check(l.t, l.exchange(clients))
	l.end(clients)
	for _, c := range clients {
		if b := &at[c.number%affineClients]; !slices.Contains(*b, c.Backend) {
			*b = append(*b, c.Backend)
		}
	}
	return at
}

// TestAffinity has clients of a service with four backends and session affinity: all
// connections of an address go to one backend, as long as no silence is longer than the timeout. A
// backend that is removed has no new ones, and its clients find another.
func TestAffinity(t *testing.T) {
	l := newTCPLab(t)
	cli := strings.Fields(l.server.Run(t, "ip", "neigh", "show", fmt.Sprintf(clientIP, 1)))
	for i := 2; i < affineClients; i++ {
		ip := fmt.Sprintf(clientIP, i+1)
		l.client.Run(t, "ip", "addr", "add", ip+"/16", "dev", "cli")
		l.server.Run(t, "ip", "neigh", "replace", ip, "lladdr", cli[slices.Index(cli, "lladdr")+1], "dev", "srv")
	}
	l.affine(0, 1, 2, 3)
	first := l.visit()
	used := map[uint16]bool{}
	for i, b := range first {
		if len(b) != 1 {
			t.Fatalf("client %d came to backends %v", i, b)
		}
		used[b[0]] = true
	}
	if len(used) < 2 {
		t.Errorf("%d clients all came to backends %v", affineClients, used)
	}
	for range 4 { // longer than the timeout together
		time.Sleep(affineTimeout / 3)
		if again := l.visit(); fmt.Sprint(again) != fmt.Sprint(first) {
			t.Fatalf("clients came to %v, and then to %v", first, again)
		}
	}

	gone := first[0][0]
	l.affine(slices.DeleteFunc([]int{0, 1, 2, 3}, func(i int) bool { return i == int(gone) })...)
	for i, b := range l.visit() {
		switch {
		case slices.Contains(b, gone):
			t.Errorf("client %d came to backend %d, which is removed", i, gone)
		case first[i][0] != gone && fmt.Sprint(b) != fmt.Sprint(first[i]):
			t.Errorf("client %d came to %v, and was at %v, which is there", i, b, first[i])
		}
	}

	time.Sleep(affineTimeout + 2*time.Second)
	last := l.visit()
	moved := false
	for i, b := range last {
		if len(b) != 1 || b[0] == gone {
			t.Errorf("after a silence client %d came to %v", i, b)
		}
		moved = moved || first[i][0] != gone && b[0] != first[i][0]
	}
	if !moved {
		t.Errorf("after a silence all clients were where they had been: %v", last)
	}
}
