package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A GuestNIC is one virtio-net device of a guest, on a vhost-user socket.
type GuestNIC struct {
	Path   string // of the socket
	Server bool   // QEMU listens; else it connects, and again every second when it loses the switch
	Queues int    // queue pairs; 0 is 1
	MAC    string // empty: 52:54:00:00:00:01 for the first device, and so on
	Device string // more properties of virtio-net-pci, such as "mrg_rxbuf=off,rx_queue_size=1024"
}

// arguments returns QEMU's options for NIC i. QEMU waits for the other end of
// the socket before it starts the guest, in both roles. Without KVM the device
// has no MSI-X: QEMU 7.2 crashes in its KVM code when a vhost device has.
func (n GuestNIC) arguments(i int, kvm bool) []string {
	chardev := fmt.Sprintf("socket,id=c%d,path=%s", i, n.Path)
	if n.Server {
		chardev += ",server=on,wait=off"
	} else {
		chardev += ",reconnect=1"
	}
	queues := max(1, n.Queues)
	mac := n.MAC
	if mac == "" {
		mac = fmt.Sprintf("52:54:00:00:00:%02x", i+1)
	}
	device := fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=%s,romfile=", i, mac)
	if queues > 1 {
		device += ",mq=on"
	}
	if kvm {
		device += fmt.Sprintf(",vectors=%d", 2*queues+2)
	} else {
		device += ",vectors=0"
	}
	if n.Device != "" {
		device += "," + n.Device
	}
	return []string{"-chardev", chardev,
		"-netdev", fmt.Sprintf("vhost-user,id=n%d,chardev=c%d,queues=%d", i, i, queues),
		"-device", device}
}

// A GuestConfig says how a guest starts. Its zero value has one processor,
// 128 MiB and no network.
type GuestConfig struct {
	NICs      []GuestNIC
	CPUs      int      // 0 is 1; use as many as queue pairs
	MemoryMiB int      // 0 is 128
	Programs  []string // of this machine that the guest has, too, with their libraries: names that Missing knows
	NoKVM     bool     // emulate the processor even when KVM can be had
	Args      []string
}

// QEMUGuest is a running guest: Debian's kernel with busybox and nothing else.
// It is for one goroutine at a time.
type QEMUGuest struct {
	p    *process
	dir  string
	nics []GuestNIC
	kvm  bool
	boot time.Duration
}

// kvmPatience is how long a guest under KVM may take to boot before the
// processor is emulated instead: some virtual machines offer a /dev/kvm that
// runs no guest.
const kvmPatience = 8 * time.Second

// ready is the line that guestInit prints when it takes commands.
var ready = regexp.MustCompile(`@@ready [0-9.]+\r?\n`)

// StartQEMU boots a guest and waits until it takes commands. The switch must
// serve the sockets of the NICs meanwhile: QEMU waits for it.
func StartQEMU(ctx context.Context, cfg GuestConfig) (*QEMUGuest, error) {
	if !cfg.NoKVM && kvmLikely() {
		patience, cancel := context.WithTimeout(ctx, kvmPatience)
		g, err := startQEMU(patience, cfg, true)
		cancel()
		if err == nil || ctx.Err() != nil {
			return g, err
		}
	}
	return startQEMU(ctx, cfg, false)
}

// kvmLikely reports whether KVM is worth trying: we may use it, and the
// processor has what it is made of.
func kvmLikely() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && regexp.MustCompile(`(?m)^flags.*\b(vmx|svm)\b`).Match(info)
}

// startQEMU boots a guest with or without KVM.
func startQEMU(ctx context.Context, cfg GuestConfig, kvm bool) (*QEMUGuest, error) {
	program, err := find("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	k, err := guestKernel()
	if err != nil {
		return nil, err
	}
	g := &QEMUGuest{kvm: kvm, nics: cfg.NICs}
	if g.dir, err = os.MkdirTemp("", "millrace-guest-"); err != nil {
		return nil, err
	}
	if err := g.start(ctx, program, cfg, k); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// start writes the initramfs, runs QEMU and waits for the guest.
func (g *QEMUGuest) start(ctx context.Context, program string, cfg GuestConfig, k kernel) error {
	archive, err := k.initramfs(cfg.Programs)
	if err != nil {
		return err
	}
	initrd := filepath.Join(g.dir, "initramfs")
	if err := os.WriteFile(initrd, archive, 0o644); err != nil {
		return err
	}
	began := time.Now()
	if g.p, err = startPiped(exec.Command(program, cfg.arguments(k.image, initrd, g.kvm)...)); err != nil {
		return err
	}
	if _, _, err := g.p.out.await(ctx, 0, ready); err != nil {
		return g.p.explain("boot", err)
	}
	g.boot = time.Since(began)
	return nil
}

// arguments returns QEMU's command line. The memory is a shared memfd, which
// is what vhost-user passes on.
func (c GuestConfig) arguments(image, initrd string, kvm bool) []string {
	accel, cpu := "tcg", "max"
	if kvm {
		accel, cpu = "kvm", "host"
	}
	memory := strconv.Itoa(orDefault(c.MemoryMiB, 128))
	args := []string{
		"-machine", "q35,memory-backend=mem,usb=off,smbus=off,sata=off,hpet=off,accel=" + accel,
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + memory + "M",
		"-m", memory, "-cpu", cpu, "-smp", strconv.Itoa(max(1, c.CPUs)),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet tsc=reliable no_timer_check mitigations=off panic=-1",
	}
	for i, n := range c.NICs {
		args = append(args, n.arguments(i, kvm)...)
	}
	return append(args, c.Args...)
}

// KVM reports whether the guest runs under KVM, or its processor is emulated.
func (g *QEMUGuest) KVM() bool { return g.kvm }

// BootTime returns how long it took from starting QEMU until the guest took commands.
func (g *QEMUGuest) BootTime() time.Duration { return g.boot }

// PID returns QEMU's process id.
func (g *QEMUGuest) PID() int { return g.p.PID() }

// Log returns all that the guest's console showed.
func (g *QEMUGuest) Log() string { return g.p.out.all() }

// An ExitError is a guest's command that ended with another status than 0.
type ExitError struct {
	Command string
	Status  int
	Output  string
}

// Error shows the command, its status and its output.
func (e *ExitError) Error() string {
	return fmt.Sprintf("guest: %q exited with %d:\n%s", e.Command, e.Status, e.Output)
}

// commandEnd is the line that guestInit prints after a command.
var commandEnd = regexp.MustCompile(`@@end (\d+)\r?\n`)

// Run runs one line of shell in the guest and returns what it printed. The
// line must not read its standard input. A status other than 0 is an ExitError.
func (g *QEMUGuest) Run(ctx context.Context, line string) (string, error) {
	const longest = 4000 // the console takes lines of up to 4095 bytes
	if len(line) > longest || strings.ContainsAny(line, "\n\r") {
		return "", errors.New("guest: a command is one line of at most " + strconv.Itoa(longest) + " bytes")
	}
	from := g.p.out.size()
	if _, err := fmt.Fprintf(g.p.in, "%s\n", line); err != nil {
		return "", g.p.explain(line, err)
	}
	out, match, err := g.p.out.await(ctx, from, commandEnd)
	if err != nil {
		return "", g.p.explain(line, err)
	}
	out = strings.ReplaceAll(out, "\r\n", "\n")
	status, err := strconv.Atoi(match[1])
	if err == nil && status != 0 {
		err = &ExitError{line, status, out}
	}
	return out, err
}

// Close ends the guest at once.
func (g *QEMUGuest) Close() {
	if g.p != nil {
		g.p.stop(2 * time.Second)
	}
	for _, n := range g.nics {
		if n.Server {
			os.Remove(n.Path) // QEMU leaves it when it is killed
		}
	}
	os.RemoveAll(g.dir)
}
