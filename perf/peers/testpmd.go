package peers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A VirtioUser is a virtio-user device of testpmd: the driver's side of a
// vhost-user socket (DPDK guide, "Virtio PMD", virtio-user arguments). Its
// features are always said in full: what is false or zero here is 0 there.
type VirtioUser struct {
	Path      string // of the socket
	Server    bool   // testpmd listens, and the switch connects (dpdkvhostuserclient); it has no prompt before that
	Queues    int    // queue pairs; 0 is 1
	QueueSize int    // descriptors per ring; 0 is 1024
	MAC       string // empty: what the switch says, or random

	MrgRxbuf   bool
	InOrder    bool
	PackedVQ   bool
	Vectorized bool // DPDK takes the vector receive path only without MrgRxbuf and InOrder; see RxPaths
}

// devarg returns the --vdev argument of device i.
func (v VirtioUser) devarg(i int) string {
	s := fmt.Sprintf("net_virtio_user%d,path=%s,queues=%d,queue_size=%d,mrg_rxbuf=%s,in_order=%s,packed_vq=%s,vectorized=%s,server=%s",
		i, v.Path, max(1, v.Queues), orDefault(v.QueueSize, 1024), bit(v.MrgRxbuf), bit(v.InOrder), bit(v.PackedVQ), bit(v.Vectorized), bit(v.Server))
	if v.MAC != "" {
		s += ",mac=" + v.MAC
	}
	return s
}

// bit writes b as DPDK does.
func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// orDefault returns n, or def when n is zero.
func orDefault(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

// Forwarding modes of testpmd (testpmd user guide, "set fwd").
const (
	ForwardIO       = "io"       // sends what it receives
	ForwardMAC      = "mac"      // and rewrites the addresses
	ForwardMACSwap  = "macswap"  // and swaps the addresses
	Forward5TSwap   = "5tswap"   // and swaps addresses and ports of all layers
	ForwardICMPEcho = "icmpecho" // answers ARP and ping
	ForwardTxOnly   = "txonly"   // floods
	ForwardRxOnly   = "rxonly"   // counts and frees
)

// A TestpmdConfig says how testpmd starts. Its zero value has no device.
type TestpmdConfig struct {
	Devices []VirtioUser
	Vdevs   []string // more --vdev arguments, as they are, after Devices; net_vhost0,iface=... is a vhost back end

	MainCPU    int   // where the command line runs
	WorkerCPUs []int // one forwarding core each; empty is MainCPU's core, shared
	Forward    string
	Mbufs      int  // in the pool; 0 is 16384
	MbufSize   int  // data room with 128 bytes of head room; 0 is 2176
	MaxPktLen  int  // longest frame; 0 is 1518
	NoHuge     bool // ordinary memory (one memfd) even when hugepages can be had
	Args       []string
	EALArgs    []string
}

// queues returns the number of queue pairs that all ports are set up with.
func (c TestpmdConfig) queues() int {
	n := 1
	for _, d := range c.Devices {
		n = max(n, d.Queues)
	}
	return n
}

// pages returns how many 2 MiB pages the pool and the rings need, with room to spare.
func (c TestpmdConfig) pages() int {
	const overhead = 256 // of a frame besides its data
	bytes := orDefault(c.Mbufs, 16384) * (orDefault(c.MbufSize, 2176) + overhead)
	return bytes>>21 + 24 + 4*c.queues()*(len(c.Devices)+len(c.Vdevs))
}

// lcores returns the argument that places the main and the forwarding threads.
func (c TestpmdConfig) lcores() string {
	workers := c.WorkerCPUs
	if len(workers) == 0 {
		workers = []int{c.MainCPU}
	}
	places := []string{fmt.Sprintf("0@%d", c.MainCPU)}
	for i, cpu := range workers {
		places = append(places, fmt.Sprintf("%d@%d", i+1, cpu))
	}
	return strings.Join(places, ",")
}

// arguments returns the command line, for memory from hugepages or not.
func (c TestpmdConfig) arguments(huge bool) []string {
	args := []string{"--no-pci", "--no-telemetry", "--lcores", c.lcores(), "--log-level=pmd.net.virtio.init:info"}
	if huge {
		args = append(args, "--in-memory", "--single-file-segments")
	} else {
		args = append(args, "--no-huge", "-m", strconv.Itoa(2*c.pages()))
	}
	for i, d := range c.Devices {
		args = append(args, "--vdev="+d.devarg(i))
	}
	for _, v := range c.Vdevs {
		args = append(args, "--vdev="+v)
	}
	args = append(args, c.EALArgs...)
	args = append(args, "--", "-i",
		"--total-num-mbufs="+strconv.Itoa(orDefault(c.Mbufs, 16384)),
		"--nb-cores="+strconv.Itoa(max(1, len(c.WorkerCPUs))),
		fmt.Sprintf("--rxq=%d", c.queues()), fmt.Sprintf("--txq=%d", c.queues()))
	if c.Forward != "" {
		args = append(args, "--forward-mode="+c.Forward)
	}
	if c.MbufSize != 0 {
		args = append(args, fmt.Sprintf("--mbuf-size=%d", c.MbufSize))
	}
	if c.MaxPktLen != 0 {
		args = append(args, fmt.Sprintf("--max-pkt-len=%d", c.MaxPktLen))
	}
	return append(args, c.Args...)
}

// Testpmd is a running dpdk-testpmd. It is for one goroutine at a time.
type Testpmd struct {
	p       *process
	dir     string
	release func() // the hugepages
	huge    bool
}

// prompt is what testpmd prints when it waits for a command.
var prompt = regexp.MustCompile(`testpmd> `)

// StartTestpmd starts testpmd and waits for its prompt, which comes when all
// devices are connected: what they connect to must be there before, and what
// connects to a Server must do so meanwhile. Without hugepages testpmd runs on
// ordinary memory, as Huge tells.
func StartTestpmd(ctx context.Context, cfg TestpmdConfig) (*Testpmd, error) {
	program, err := find("dpdk-testpmd")
	if err != nil {
		return nil, err
	}
	t := &Testpmd{release: func() {}}
	if !cfg.NoHuge {
		if release, err := Hugepages(cfg.pages()); err == nil {
			t.release, t.huge = release, true
		}
	}
	if t.dir, err = os.MkdirTemp("", "millrace-testpmd-"); err != nil {
		t.release()
		return nil, err
	}
	if err := t.start(ctx, exec.Command(program, cfg.arguments(t.huge)...)); err != nil {
		t.Kill()
		return nil, err
	}
	return t, nil
}

// start runs cmd in t's directory and waits for the prompt.
func (t *Testpmd) start(ctx context.Context, cmd *exec.Cmd) (err error) {
	cmd.Dir = t.dir
	cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+t.dir)
	if t.p, err = startOnTerminal(cmd); err != nil {
		return err
	}
	if _, _, err := t.p.out.await(ctx, 0, prompt); err != nil {
		return t.p.explain("wait for the prompt", err)
	}
	return nil
}

// Log returns all that it printed.
func (t *Testpmd) Log() string { return t.p.out.all() }

// Command types one line and returns what testpmd prints before its next prompt.
func (t *Testpmd) Command(ctx context.Context, format string, args ...any) (string, error) {
	line := fmt.Sprintf(format, args...)
	from := t.p.out.size()
	if _, err := fmt.Fprintf(t.p.in, "%s\n", line); err != nil {
		return "", t.p.explain(line, err)
	}
	out, _, err := t.p.out.await(ctx, from, prompt)
	if err != nil {
		return "", t.p.explain(line, err)
	}
	for _, bad := range []string{"Bad arguments", "Command not found", "Ambiguous command"} {
		if strings.Contains(out, bad) {
			return "", fmt.Errorf("testpmd: %s: %s", line, bad)
		}
	}
	return strings.ReplaceAll(out, "\r\n", "\n"), nil
}

// Start begins to forward.
func (t *Testpmd) Start(ctx context.Context) error {
	_, err := t.Command(ctx, "start")
	return err
}

// StartTxFirst sends bursts times 32 frames on each queue, then forwards.
func (t *Testpmd) StartTxFirst(ctx context.Context, bursts int) error {
	_, err := t.Command(ctx, "start tx_first %d", bursts)
	return err
}

// Stop ends forwarding and returns what was forwarded since Start, by port.
func (t *Testpmd) Stop(ctx context.Context) ([]ForwardStats, error) {
	out, err := t.Command(ctx, "stop")
	if err != nil {
		return nil, err
	}
	return parseForwardStats(out), nil
}

// SetForward changes the forwarding mode; forwarding must be stopped.
func (t *Testpmd) SetForward(ctx context.Context, mode string) error {
	_, err := t.Command(ctx, "set fwd %s", mode)
	return err
}

// SetTxPackets sets the frames of txonly: one number is their length without
// the check sum, several are the lengths of a frame's segments.
func (t *Testpmd) SetTxPackets(ctx context.Context, lengths ...int) error {
	words := make([]string, len(lengths))
	for i, n := range lengths {
		words[i] = strconv.Itoa(n)
	}
	_, err := t.Command(ctx, "set txpkts %s", strings.Join(words, ","))
	return err
}

// PortStats returns the devices' counters.
func (t *Testpmd) PortStats(ctx context.Context) ([]PortStats, error) {
	out, err := t.Command(ctx, "show port stats all")
	if err != nil {
		return nil, err
	}
	return parsePortStats(out), nil
}

// ClearPortStats sets the devices' counters to zero.
func (t *Testpmd) ClearPortStats(ctx context.Context) error {
	_, err := t.Command(ctx, "clear port stats all")
	return err
}

// rxPath is what the virtio driver logs when it chooses its receive function.
var rxPath = regexp.MustCompile(`virtio: using (.+) Rx path on port (\d+)`)

// RxPaths returns, by port, the receive function that the driver last chose:
// "vectorized", "mergeable buffer", "inorder" or "standard".
func (t *Testpmd) RxPaths() map[int]string {
	paths := map[int]string{}
	for _, m := range rxPath.FindAllStringSubmatch(t.Log(), -1) {
		if port, err := strconv.Atoi(m[2]); err == nil {
			paths[port] = m[1]
		}
	}
	return paths
}

// Kill ends testpmd at once, as a crash would.
func (t *Testpmd) Kill() {
	if t.p != nil {
		t.p.kill()
	}
	t.cleanUp()
}

// Close lets testpmd end in order: it stops its devices, so the switch sees
// the end of each ring.
func (t *Testpmd) Close() {
	t.p.finish(func() { _, _ = fmt.Fprint(t.p.in, "quit\n") }, 5*time.Second)
	t.cleanUp()
}

// cleanUp gives back what is not the process's.
func (t *Testpmd) cleanUp() {
	t.release()
	t.release = func() {}
	if filepath.IsAbs(t.dir) {
		os.RemoveAll(t.dir)
	}
}
