// Package agent makes ports for pods: rows of the Open_vSwitch database, which are all
// that it keeps, so that they outlive everybody.
//
//	serve.go      calls of the CNI plugin, by a Unix socket of the run directory
//	attach.go     an attachment becomes a port that is in force, and its end
//	alone.go      what one pod has, and no other
//	rows.go       attachments to rows and back; transactions
//	limits.go     rates and port security in rows
//	directory.go  the directory in which an application finds its socket, and what it is told
//	tenants.go    one attachment after the other in the same directory
//	userspace.go  the same in names and files of the userspace CNI plugin
//	kube.go       whose a pod's socket is, where the agent may ask the Kubernetes API
//	link.go       the device of a pod that goes before its port
//	owned.go      whether a pod still has an attachment
//	reconcile.go  what no pod has is removed, also what was detached while nobody was here
//
// The plugin waits while a call is carried out. Calls about one attachment are carried out one
// after the other, others side by side, each with a connection to the database of its own.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"millrace/control/cni/attach"
)

// A Config says what an agent works with.
type Config struct {
	RunDir    string       // of the switch; must exist
	Endpoints []string     // of its database
	TLS       *tls.Config  // for ssl endpoints
	Health    func() error // why no port could be made now; nil: nobody knows
	Log       *zap.Logger
	Kube      *Kube // says whose a pod's socket is; nil: volumes and networks do

	// What the host has where, for tests; empty: where it is on hosts.
	Kubelet string        // directory of kubelet
	BootID  string        // this boot; empty: as the kernel says
	Every   time.Duration // between two looks for what no pod has; 0: half a minute
}

// kubeletDir is where kubelet keeps pods' volumes.
const kubeletDir = "/var/lib/kubelet"

// reconcileEvery is how often the agent looks for what no pod has.
const reconcileEvery = 30 * time.Second

// An agent is what calls share.
type agent struct {
	Config
	calls keyed

	looking sync.Mutex      // held by reconcile
	lost    map[string]uint // by port: how many looks in a row its pod was gone; under looking
}

// withDefaults fills in what c leaves open.
func (c Config) withDefaults() (Config, error) {
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Kubelet == "" {
		c.Kubelet = kubeletDir
	}
	if c.Every == 0 {
		c.Every = reconcileEvery
	}
	if c.BootID == "" {
		c.BootID = readBootID()
	}
	dir, err := filepath.Abs(c.RunDir)
	if err != nil {
		return c, fmt.Errorf("run directory %q: %w", c.RunDir, err)
	}
	c.RunDir = dir
	return c, nil
}

// Run serves calls until ctx ends. Nobody else may serve the run directory.
func Run(ctx context.Context, c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	path := filepath.Join(c.RunDir, attach.SocketName)
	l, err := listen(path)
	if err != nil {
		return err
	}
	a := &agent{Config: c, lost: map[string]uint{}}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { a.reconcileLoop(ctx) })
	defer os.Remove(path)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	err = a.serve(ctx, l, &running)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listen makes the agent's socket, for its owner. The caller has the run
// directory's lock, so a socket that is there is that of a dead agent.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of the last agent: %w", err)
	}
	made := path + hidden // a name that nobody knows until it has its mode
	_ = os.Remove(made)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the CNI plugin: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(made, 0o600)
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for the CNI plugin: %w", err), l.Close())
	}
	return l, nil
}

// keyed is a lock for each name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	mu   sync.Mutex
	uses int // who has it or waits for it; under keyed.mu
}

// lock locks a name and returns how to unlock it.
func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[name]
	if l == nil {
		l = &keyedLock{}
		k.locks[name] = l
	}
	l.uses++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.uses--; l.uses == 0 {
			delete(k.locks, name)
		}
	}
}
