package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/nfttest"
)

// A router is a network namespace of its own, with connection tracking, between
// two TUN devices. The thread that made it must not run anything else.
type router struct{ tuns [2]*os.File }

// A lack is what this machine has not, and TestKernel needs.
type lack struct {
	of    string
	cause error
}

func (l lack) Error() string { return "needs " + l.of + ": " + l.cause.Error() }

// newRouter makes a router. A lack says why this machine cannot.
func newRouter() (*router, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_FS); err != nil {
		return nil, lack{"root, for a network namespace of its own", err}
	}
	r := &router{}
	for i := range r.tuns {
		f, err := openTUN(fmt.Sprintf("side%d", i))
		if err != nil {
			r.close()
			return nil, err
		}
		r.tuns[i] = f
		for _, args := range []string{"link set side%d up", "addr add 10.0.%d.1/24 dev side%d"} {
			args = strings.ReplaceAll(args, "%d", fmt.Sprint(i))
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				r.close()
				if errors.Is(err, exec.ErrNotFound) {
					return nil, lack{"ip(8): apt-get install iproute2", err}
				}
				return nil, fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
		}
	}
	if err := r.settings(); err != nil {
		r.close()
		return nil, err
	}
	if err := trackInKernel(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// settings has the router forward, check nothing but flags, and keep connections
// for longer than the test takes on a busy machine.
func (r *router) settings() error {
	values := map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0", "net/netfilter/nf_conntrack_checksum": "0",
		"net/netfilter/nf_conntrack_tcp_be_liberal": "1", "net/netfilter/nf_conntrack_tcp_ignore_invalid_rst": "0",
	}
	for _, state := range strings.Fields("close close_wait fin_wait last_ack max_retrans syn_recv syn_sent time_wait unacknowledged") {
		values["net/netfilter/nf_conntrack_tcp_timeout_"+state] = "3600"
	}
	for name, value := range values {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return lack{"a kernel module for connection tracking (nf_conntrack), and Linux 6.2", err}
		}
	}
	return nil
}

// close gives the devices back; the namespace goes with the thread.
func (r *router) close() {
	for _, f := range r.tuns {
		if f != nil {
			_ = f.Close()
		}
	}
}

// openTUN makes a TUN device of the namespace.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, lack{"a kernel module for TUN devices (tun)", err}
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, lack{"root, for TUN device " + name, err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// trackInKernel adds a rule of nftables that asks for the connection's state,
// so that the kernel tracks connections in this namespace.
func trackInKernel() error {
	var b nfttest.Batch
	b.Begin()
	b.Table("t")
	b.Chain("t", "c", "filter", 2, 0)
	b.Rule("t", "c", nfttest.Expr("ct", nfttest.Number(unix.NFTA_CT_DREG, 1), nfttest.Number(unix.NFTA_CT_KEY, unix.NFT_CT_STATE)))
	b.End()
	if err := b.Commit(); err != nil {
		return lack{"connection tracking by rules", err}
	}
	return nil
}

// inject sends a TCP segment into the router.
func (r *router) inject(side int, t Tuple, flags uint16) error {
	ip := make([]byte, 40)
	ip[0], ip[8], ip[9] = 0x45, 64, ProtoTCP
	binary.BigEndian.PutUint16(ip[2:], 40)
	binary.BigEndian.PutUint32(ip[12:], uint32(t.Src[1]))
	binary.BigEndian.PutUint32(ip[16:], uint32(t.Dst[1]))
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], t.SrcPort)
	binary.BigEndian.PutUint16(ip[22:], t.DstPort)
	binary.BigEndian.PutUint32(ip[24:], 1000+uint32(side)*1000)
	if flags&FlagACK != 0 {
		binary.BigEndian.PutUint32(ip[28:], 500000) // of nothing: the kernel would make guesses
	}
	ip[32], ip[33] = 5<<4, byte(flags)
	binary.BigEndian.PutUint16(ip[34:], 5000)
	_, err := r.tuns[side].Write(ip)
	return err
}

// kernelLine is a TCP connection of /proc/net/nf_conntrack.
var kernelLine = regexp.MustCompile(`tcp +6 \d+ (\w+) src=10\.0\.\d+\.2 dst=10\.0\.\d+\.2 sport=(\d+) dport=(\d+)`)

// states returns the states of the kernel's connections, by the client's port.
func (r *router) states() (map[string]string, error) {
	b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
	if err != nil {
		return nil, lack{"a kernel that lists connections (CONFIG_NF_CONNTRACK_PROCFS)", err}
	}
	list := map[string]string{}
	for _, m := range kernelLine.FindAllStringSubmatch(string(b), -1) {
		port := m[2]
		if port == "80" {
			port = m[3]
		}
		list[port] = m[1]
	}
	return list, nil
}

// TestKernel takes random sequences of TCP flags through Linux and through a
// table, and compares the states in which they leave connections.
func TestKernel(t *testing.T) {
	table, w := newTable(t, small(4096))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes, and the namespace with it
		r, err := newRouter()
		if err != nil {
			done <- err
			return
		}
		defer r.close()
		done <- compareWithKernel(table, w, r)
	}()
	err := <-done
	if l := (lack{}); errors.As(err, &l) {
		t.Skipf("needs %s: %v", l.of, l.cause)
	}
	if err != nil {
		t.Error(err)
	}
}

// compareWithKernel is TestKernel on the router's thread.
func compareWithKernel(table *Table, w *Worker, r *router) error {
	const sequences = 600
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 5))
	flags := []uint16{FlagSYN, FlagSYN | FlagACK, FlagACK, FlagACK, FlagFIN | FlagACK, FlagRST, FlagRST | FlagACK, FlagPSH | FlagACK, FlagFIN, 0, FlagSYN | FlagRST}
	sent := map[string]string{}
	for i := range sequences {
		tcp := tuple4(ProtoTCP, "10.0.0.2", uint16(2000+i), "10.0.1.2", 80)
		opening := segmentsOf([]string{"", ">S", ">S <SA", ">S <SA >A", ">S <SA >A >FA"}[random.IntN(5)])
		for range random.IntN(6) {
			opening = append(opening, segmentOf{random.IntN(2), flags[random.IntN(len(flags))]})
		}
		for _, s := range opening {
			p := packetOf(tcp, s.flags)
			if s.dir == 1 {
				p = packetOf(tcp.Inverse(), s.flags)
			}
			if c, _ := table.Lookup(1, tcp, start); segment(s.flags) == segSYN && (c.State == "CLOSE" || c.State == "TIME_WAIT" || c.State == "LAST_ACK") {
				continue // Linux remembers the SYN, and in some cases waits where we begin another connection
			}
			commit(w, 1, p, Terms{}, start)
			w.Quiet()
			if err := r.inject(s.dir, p.Tuple, s.flags); err != nil {
				return fmt.Errorf("send a packet: %w", err)
			}
			sent[fmt.Sprint(2000+i)] += fmt.Sprintf(" %c%s", "><"[s.dir], flagNames(s.flags))
		}
	}
	var wrong []string
	for deadline := time.Now().Add(20 * time.Second); ; { // until the kernel is through
		kernel, err := r.states()
		if err != nil {
			return err
		}
		wrong = wrong[:0]
		for i := range sequences {
			port := fmt.Sprint(2000 + i)
			tcp := tuple4(ProtoTCP, "10.0.0.2", uint16(2000+i), "10.0.1.2", 80)
			c, _ := table.Lookup(1, tcp, start)
			if c.State != kernel[port] {
				wrong = append(wrong, fmt.Sprintf("%s: %q, the kernel has %q", sent[port], c.State, kernel[port]))
			}
		}
		if len(wrong) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("seed %d: %d of %d sequences differ:\n%s", seed, len(wrong), sequences, strings.Join(wrong, "\n"))
		}
		runtime.Gosched()
	}
}

// flagNames writes flags as segmentsOf reads them.
func flagNames(flags uint16) (s string) {
	for i, c := range "FSRPAU" {
		if flags>>i&1 != 0 {
			s += string(c)
		}
	}
	return s
}
