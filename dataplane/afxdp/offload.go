package afxdp

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// What a device does to frames before the program sees them, or leaves to be
// done after its sender has let them go, the port cannot know of: tags that are
// kept beside the frame, frames that were put together from several (GRO), or
// that were not taken apart yet (TSO, GSO), or not summed up. Such offloads are
// switched off for as long as the port has the device.
//
// In native mode the other end of a veth is left as it is: the kernel itself has
// it take packets apart, the program gets tags back, and checksums are
// completed. In generic mode it must be told, wherever it is.

// A feature is one that a driver can be told to do without.
type feature struct {
	name     string
	get, set uint32 // ethtool requests
	bit      uint32 // of the value; 0: all of it
}

// Bits of ETHTOOL_GFLAGS.
const (
	flagTxVLAN = 1 << 7
	flagRxVLAN = 1 << 8
	flagLRO    = 1 << 15
)

// The features that are in the way: of the device, in any mode and in generic
// mode, and of a veth's other end in generic mode.
var (
	nativeFeatures = []feature{
		{"rx-vlan-offload", unix.ETHTOOL_GFLAGS, unix.ETHTOOL_SFLAGS, flagRxVLAN},
		{"large-receive-offload", unix.ETHTOOL_GFLAGS, unix.ETHTOOL_SFLAGS, flagLRO},
	}
	genericFeatures = []feature{{"generic-receive-offload", unix.ETHTOOL_GGRO, unix.ETHTOOL_SGRO, 0}}
	tagFeature      = feature{"tx-vlan-offload", unix.ETHTOOL_GFLAGS, unix.ETHTOOL_SFLAGS, flagTxVLAN}
	peerFeatures    = []feature{
		{"tcp-segmentation-offload", unix.ETHTOOL_GTSO, unix.ETHTOOL_STSO, 0},
		{"generic-segmentation-offload", unix.ETHTOOL_GGSO, unix.ETHTOOL_SGSO, 0},
		{"tx-checksumming", unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM, 0},
		tagFeature,
	}
)

// turn switches a feature of device name on or off, and reports whether it was
// the other way before.
func (f feature) turn(c *control, name string, on bool) (bool, error) {
	v := ethtoolValue{cmd: f.get}
	if err := ethtool(c.fd.Int(), name, &v); err != nil {
		return false, nil // the driver knows nothing of it
	}
	bits := f.bit
	if bits == 0 {
		bits = 1
	}
	want := v.data &^ bits
	if on {
		want |= bits
	}
	if want == v.data {
		return false, nil
	}
	return true, ethtool(c.fd.Int(), name, &ethtoolValue{f.set, want})
}

// An ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// switched are features of a device that were switched off.
type switched struct {
	list []feature
	in   func(fn func(c *control, name string) error) error // where the device is
}

// off switches off those of list that are on.
func (s *switched) off(list []feature) error {
	return s.in(func(c *control, name string) error {
		for _, f := range list {
			was, err := f.turn(c, name, false)
			if err != nil {
				return fmt.Errorf("switch off %s of %s: %w", f.name, name, err)
			}
			if was {
				s.list = append(s.list, f)
			}
		}
		return nil
	})
}

// Close switches the features on again, unless the device is gone.
func (s *switched) Close() error {
	if len(s.list) == 0 {
		return nil
	}
	_ = s.in(func(c *control, name string) error {
		for _, f := range s.list {
			_, _ = f.turn(c, name, true)
		}
		return nil
	})
	return nil
}

// quieten switches off what the device and its peer may not do in the session's
// mode.
func (s *session) quieten(log *zap.Logger) {
	var own []feature
	if s.dev.kind != veth {
		own = append(own, nativeFeatures...)
	}
	if !s.native {
		own = append(own, genericFeatures...)
	}
	s.quiet(&switched{in: func(fn func(*control, string) error) error { return withControl(s.dev.name, fn) }}, own, log)
	if peer := s.peerFeatures(); peer != nil {
		s.quiet(&switched{in: s.dev.atPeer}, peer, log)
	}
}

// peerFeatures are those that the other end of a veth must do without. Before
// Linux 6.8 the program does not get tags back.
func (s *session) peerFeatures() []feature {
	switch {
	case s.dev.kind != veth:
	case !s.native:
		return peerFeatures
	case !s.tagged:
		return []feature{tagFeature}
	}
	return nil
}

func (s *session) quiet(w *switched, list []feature, log *zap.Logger) {
	if err := w.off(list); err != nil {
		log.Warn("offloads may harm traffic: switch them off with ethtool -K", zap.Error(err))
	}
	s.undo = append(s.undo, w)
}

// withControl calls fn with a socket to ask drivers by.
func withControl(name string, fn func(*control, string) error) error {
	c, err := newControl()
	if err != nil {
		return err
	}
	defer c.close()
	return fn(&c, name)
}

// atPeer calls fn in the network namespace of the veth's other end, with the
// name that it has there.
func (d *device) atPeer(fn func(*control, string) error) error {
	return d.inPeersNetwork(func() error {
		l, err := netlink.LinkByIndex(d.peer)
		if err != nil {
			return fmt.Errorf("look for the other end of %s: %w", d.name, err)
		}
		return withControl(l.Attrs().Name, fn)
	})
}

// inPeersNetwork calls fn in the network namespace of the veth's other end.
func (d *device) inPeersNetwork(fn func() error) error {
	if d.peerNS < 0 {
		return fn()
	}
	f, err := namespace(d.peerNS)
	if err != nil {
		return fmt.Errorf("reach the other end of %s: %w", d.name, err)
	}
	defer f.Close()
	return sys.InNetwork(f, fn)
}

// namespace opens the network namespace that has the given id in ours. The
// kernel does not tell where it is: those that have a name or a process are
// searched.
func namespace(id int) (*os.File, error) {
	named, _ := filepath.Glob("/run/netns/*")
	inUse, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	seen := map[string]bool{}
	for _, path := range append(named, inUse...) {
		if strings.HasPrefix(path, "/proc/") {
			target, err := os.Readlink(path)
			if err != nil || seen[target] {
				continue
			}
			seen[target] = true
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if got, err := netlink.GetNetNsIdByFd(int(f.Fd())); err == nil && got == id {
			return f, nil
		}
		_ = f.Close()
	}
	return nil, errors.New("its network namespace has neither a name nor a process that can be seen from here")
}
