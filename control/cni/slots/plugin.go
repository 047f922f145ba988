package slots

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	kubelet "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"millrace/control/cni/attach"
)

const (
	// Domain is the first part of resources' names.
	Domain = "millrace.dev"

	// DefaultSlots is how many interfaces of a bridge pods can have where nothing is
	// said: as many pods as kubelet runs.
	DefaultSlots = 110

	// SlotsMax bounds the list that kubelet gets.
	SlotsMax = 4096

	// DefaultInfoDir is where Multus looks for what device plugins tell of their
	// devices (device-info specification 1.1.0).
	DefaultInfoDir = "/var/run/k8s.cni.cncf.io/devinfo/dp"
)

// A Config says what a plugin offers.
type Config struct {
	RunDir     string // of the switch, as the host has it
	Bridge     string
	Slots      int    // 0: DefaultSlots
	Role       string // of applications where the network says nothing: server or client; empty: server
	KubeletDir string // of device plugins; empty: kubelet's own
	InfoDir    string // empty: DefaultInfoDir

	// Health is why no interface could be had now; nil: nobody knows.
	Health func(context.Context) error

	// Look is how often plugins look for kubelet and for health; 0: each second.
	Look time.Duration

	Log *zap.Logger // nil: no log
}

// A Plugin is one resource of one node.
type Plugin struct {
	Config
	sick bool // as kubelet was told last
}

// New checks a Config.
func New(c Config) (*Plugin, error) {
	if c.Slots == 0 {
		c.Slots = DefaultSlots
	}
	if c.Role == "" {
		c.Role = "server"
	}
	if c.KubeletDir == "" {
		c.KubeletDir = filepath.Clean(kubelet.DevicePluginPath)
	}
	if c.InfoDir == "" {
		c.InfoDir = DefaultInfoDir
	}
	if c.Look == 0 {
		c.Look = time.Second
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	switch {
	case c.Slots < 1 || c.Slots > SlotsMax:
		return nil, fmt.Errorf("%d slots are not in 1..%d", c.Slots, SlotsMax)
	case c.Role != "server" && c.Role != "client":
		return nil, fmt.Errorf("role %q is neither server nor client", c.Role)
	case attach.CheckName(c.Bridge) != nil || !isResource(c.Bridge):
		return nil, fmt.Errorf("bridge %.60q cannot be a resource: its name has to consist of at most 50 letters, digits, '-', '_' and '.', and to begin and end with a letter or digit", c.Bridge)
	}
	c.Log = c.Log.With(zap.String("resource", Domain+"/"+c.Bridge))
	return &Plugin{Config: c}, nil
}

// bridgeMax leaves room for a number, so that an ID has 63 bytes at most.
const bridgeMax = 50

// isResource reports whether s can be the second part of a resource's name (qualified
// names of Kubernetes).
func isResource(s string) bool {
	word := func(c rune) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	ends := s != "" && word(rune(s[0])) && word(rune(s[len(s)-1]))
	return ends && len(s) <= bridgeMax && !strings.ContainsFunc(s, func(c rune) bool { return !word(c) && !strings.ContainsRune("-_.", c) })
}

// Resource is what pods ask for.
func (p *Plugin) Resource() string { return Domain + "/" + p.Bridge }

// ids are the slots' IDs.
func (p *Plugin) ids() []string {
	ids := make([]string, p.Slots)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", p.Bridge, i)
	}
	return ids
}

// Run offers slots to each kubelet that comes, until ctx ends.
func (p *Plugin) Run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		err := p.life(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			p.Log.Warn("not known to kubelet: tried again", zap.Error(err))
		}
		if err == nil {
			said = ""
		}
		p.pause(ctx)
	}
	return p.removeInfo()
}

func (p *Plugin) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(p.Look):
	}
}

// life serves one kubelet until it is gone.
func (p *Plugin) life(ctx context.Context) error {
	path := filepath.Join(p.KubeletDir, filepath.Base(kubelet.KubeletSocket))
	them, err := identify(path)
	if err != nil {
		return err
	}
	s, err := p.listen()
	if err != nil {
		return err
	}
	defer s.close()
	us, err := identify(s.path)
	if err != nil {
		return err
	}
	s.tell(p.health(ctx)) // kubelet asks as soon as it knows us
	if err := s.register(ctx, path); err != nil {
		return err
	}
	p.Log.Info("offered to kubelet", zap.Int("slots", p.Slots))
	for {
		p.pause(ctx)
		if ctx.Err() != nil {
			return nil
		}
		theirs, err := identify(path)
		if err != nil || theirs != them {
			return errors.Join(errors.New("kubelet was restarted"), err)
		}
		if ours, err := identify(s.path); err != nil || ours != us {
			return errors.New("kubelet has removed the plugin's socket")
		}
		s.tell(p.health(ctx))
	}
}

// health reports whether interfaces can be had, and logs changes.
func (p *Plugin) health(ctx context.Context) bool {
	if p.Health == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	err := p.Health(ctx)
	if sick := err != nil; sick != p.sick && ctx.Err() == nil {
		p.sick = sick
		p.Log.Warn("health has changed", zap.Bool("healthy", !sick), zap.Error(err))
	}
	return err == nil
}

const healthTimeout = 5 * time.Second

// An identity tells one file from another at the same path.
type identity struct {
	dev, inode uint64
	made       unix.Timespec
}

func identify(path string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return identity{}, &os.PathError{Op: "look for", Path: path, Err: err}
	}
	return identity{st.Dev, st.Ino, st.Ctim}, nil
}
