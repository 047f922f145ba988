package afxdp

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

// A Mode says how the port may use its device, with the names of Open vSwitch's
// option xdp-mode.
type Mode string

// The modes. The zero value is BestEffort.
const (
	BestEffort Mode = "best-effort"          // the best that the device can, in the order below
	ZeroCopy   Mode = "native-with-zerocopy" // the driver runs the program and uses our memory
	Native     Mode = "native"               // the driver runs the program, the kernel copies
	Generic    Mode = "generic"              // the kernel runs the program, any device can
)

// Modes are all modes, best first but for BestEffort.
func Modes() []Mode { return []Mode{BestEffort, ZeroCopy, Native, Generic} }

// Keys of Interface.options.
const (
	KeyMode       = "xdp-mode"        // one of Modes
	KeyNeedWakeup = "use-need-wakeup" // true (default) or false
	KeyBusyPoll   = "xdp-busy-poll"   // true or false (default)
	KeySend       = "xdp-send"        // socket (default) or runs
	KeyVLANs      = "xdp-vlans"       // VLANs whose frames go to the port, such as 10,20-29
	KeyMACs       = "xdp-macs"        // destination addresses whose frames go to the port
	KeyPorts      = "xdp-udp-ports"   // UDP destination ports whose frames go to the port, such as 4789,6081
)

// Keys are all keys that Parse knows.
func Keys() []string {
	return []string{KeyMode, KeyNeedWakeup, KeyBusyPoll, KeySend, KeyVLANs, KeyMACs, KeyPorts}
}

const (
	// QueuesMax is the most queues that a port uses.
	QueuesMax = 64

	// DefaultQueues is how many queues a port can have whose device is not
	// there when it is opened, and that was not told how many it shall have.
	DefaultQueues = 8

	macsMax = 1024 // as the map of the program has room for
)

// ErrOptions is the error of options that no port can have.
var ErrOptions = errors.New("bad AF_XDP port")

// A Selection says which frames go to the port; the rest is the kernel's. The
// zero Selection is all frames but those that are addressed to the host: whose
// IP address, or the one asked for by ARP or neighbour discovery, is an address
// that the host has on the device. Otherwise one match is enough, whoever the
// frame is addressed to.
type Selection struct {
	VLANs []uint16 // by outermost tag; 0 for frames without one
	MACs  [][6]byte
	Ports []uint16 // UDP destination ports
}

// all reports whether s selects all frames.
func (s *Selection) all() bool { return len(s.VLANs)+len(s.MACs)+len(s.Ports) == 0 }

// String is s in words.
func (s *Selection) String() string {
	var parts []string
	for _, p := range []struct {
		what string
		n    int
	}{{"VLANs", len(s.VLANs)}, {"addresses", len(s.MACs)}, {"UDP ports", len(s.Ports)}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if parts == nil {
		return "all frames but the host's"
	}
	return "frames of " + strings.Join(parts, ", ")
}

// Settings are what Interface.options say.
type Settings struct {
	Mode     Mode
	NoWakeup bool // the kernel is called whether it needs it or not
	BusyPoll bool // workers drive the driver, for NICs whose interrupts would come to a worker's CPU
	Runs     bool // many frames are sent by runs of the program, to a veth whose other end has one, too; see runs.go
	Select   Selection
}

// Parse reads the options of a row.
func Parse(options map[string]string) (Settings, error) {
	s := Settings{Mode: BestEffort}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		if err := s.set(key, options[key]); err != nil {
			return Settings{}, fmt.Errorf("%w: option %s=%q: %w", ErrOptions, key, options[key], err)
		}
	}
	return s, nil
}

// set takes one option of a row. The error says what can be chosen, not for which option.
func (s *Settings) set(key, value string) (err error) {
	switch key {
	case KeyMode:
		s.Mode = Mode(value)
		if !slices.Contains(Modes(), s.Mode) {
			err = fmt.Errorf("choose one of %v", Modes())
		}
	case KeyNeedWakeup, KeyBusyPoll:
		if value != "true" && value != "false" {
			return errors.New("choose true or false")
		}
		if key == KeyNeedWakeup {
			s.NoWakeup = value == "false"
		} else {
			s.BusyPoll = value == "true"
		}
	case KeySend:
		if value != "socket" && value != "runs" {
			return errors.New("choose socket or runs")
		}
		s.Runs = value == "runs"
	case KeyVLANs:
		s.Select.VLANs, err = parseNumbers(value, 4094)
	case KeyPorts:
		s.Select.Ports, err = parseNumbers(value, 65535)
	case KeyMACs:
		s.Select.MACs, err = parseMACs(value)
	default:
		err = fmt.Errorf("there is no such option: they are %s", strings.Join(Keys(), ", "))
	}
	return err
}

// parseNumbers reads a list such as 10,20-29 of numbers up to most.
func parseNumbers(s string, most uint64) ([]uint16, error) {
	var list []uint16
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		lo, err1 := strconv.ParseUint(first, 10, 16)
		hi, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || lo > hi || hi > most {
			return nil, fmt.Errorf("%q is neither a number up to %d nor a range like 20-29", part, most)
		}
		for n := lo; n <= hi; n++ {
			list = append(list, uint16(n))
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

func parseMACs(s string) ([][6]byte, error) {
	var list [][6]byte
	for part := range strings.SplitSeq(s, ",") {
		mac, err := net.ParseMAC(strings.TrimSpace(part))
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("%q is not an Ethernet address like 02:00:00:00:00:01", part)
		}
		list = append(list, [6]byte(mac))
	}
	if len(list) > macsMax {
		return nil, fmt.Errorf("%d addresses are more than %d", len(list), macsMax)
	}
	return list, nil
}

// Options say what a port shall be and what surrounds it.
type Options struct {
	Settings
	Name   string // of the device
	Queues int    // how many of its queues; 0: all that there are
	MTU    int    // of the device, and the longest payload of a frame to it in bytes; 0: what the device has

	// Quiesce returns when every worker has ended the turn it was in and has
	// taken note of WakeFD of all queues. It is called by goroutines of the
	// port, also while Close runs, and must not wait for any of the port's
	// methods. Nil: there are no workers.
	Quiesce func()

	// Changed is told that State is different now. It must not wait for any
	// of the port's methods but State. Nil: nobody wants to know.
	Changed func()

	Watcher *Watcher // tells of what happens to devices; nil: the port looks all the time

	Log *zap.Logger // nil: no log
}

// withDefaults fills in what o leaves open, and refuses what cannot be.
func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Name == "" || len(o.Name) >= unix.IFNAMSIZ:
		return o, fmt.Errorf("%w: a port is named like its device, in 1 to %d bytes: %q", ErrOptions, unix.IFNAMSIZ-1, o.Name)
	case o.Queues < 0 || o.Queues > QueuesMax:
		return o, fmt.Errorf("%w: %d queues, at most %d", ErrOptions, o.Queues, QueuesMax)
	case o.MTU < 0 || o.MTU > packet.FrameMax-packet.FrameMin:
		return o, fmt.Errorf("%w: mtu %d, at most %d", ErrOptions, o.MTU, packet.FrameMax-packet.FrameMin)
	}
	if o.Mode == "" {
		o.Mode = BestEffort
	}
	if o.Quiesce == nil {
		o.Quiesce = func() {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.With(zap.String("port", o.Name))
	return o, nil
}
