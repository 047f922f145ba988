package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/control/cni/attach"
)

const (
	callTimeout = 25 * time.Second // for all of a call
	readTimeout = 5 * time.Second  // for a request to come in
	callersMax  = 256              // at a time; others wait
)

// serve takes calls until the listener is closed.
func (a *agent) serve(ctx context.Context, l *net.UnixListener, running *sync.WaitGroup) error {
	slots := make(chan struct{}, callersMax)
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			a.Log.Warn("cannot accept calls of the CNI plugin", zap.Error(err))
			time.Sleep(100 * time.Millisecond)
			continue
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			a.answer(ctx, c)
		})
	}
}

// answer carries out the one call of a connection.
func (a *agent) answer(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	_ = c.SetDeadline(began.Add(readTimeout))
	var r attach.Request
	reply := &attach.Reply{}
	err := permitted(c)
	if err == nil {
		err = attach.Receive(c, &r)
	}
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(callTimeout + readTimeout))
		reply, err = a.do(ctx, &r, func() bool { return hungUp(c) })
	}
	if err != nil {
		reply = &attach.Reply{Error: asError(err)}
		a.Log.Warn("call refused", zap.String("method", r.Method), zap.String("container", r.Key.ContainerID), zap.String("interface", r.Key.IfName), zap.Error(err))
	}
	if err := attach.Send(c, reply); err != nil {
		a.Log.Info("the CNI plugin did not wait for its answer", zap.String("method", r.Method), zap.Error(err))
	}
	a.Log.Debug("call", zap.String("method", r.Method), zap.Duration("took", time.Since(began)))
}

// permitted reports whether the caller is root or our own user. The mode of the socket
// says the same; whoever changes it opens nothing.
func permitted(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return fmt.Errorf("who calls: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return attach.Errorf(attach.CodeInvalid, "user %d may not call: it is for root and the switch's own user", cred.Uid)
	}
	return nil
}

// hungUp reports whether the other end is closed altogether: not only that there is no more to read.
func hungUp(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	var up bool
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, _ := unix.Poll(p, 0)
		up = n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return err != nil || up
}

// do carries out a call. hungUp reports whether its caller is gone.
func (a *agent) do(ctx context.Context, r *attach.Request, hungUp func() bool) (*attach.Reply, error) {
	if r.Version != attach.Version {
		return nil, attach.Errorf(attach.CodeInvalid, "the plugin speaks version %d, and this switch version %d: install the plugin of the same release", r.Version, attach.Version)
	}
	switch r.Method {
	case attach.Attach:
		return a.attach(ctx, r.Attachment, hungUp)
	case attach.Detach:
		return &attach.Reply{}, a.detach(ctx, r.Key, r.Attachment)
	case attach.Check:
		return a.check(ctx, r.Attachment)
	case attach.Find:
		return a.find(ctx, r.Key)
	case attach.List:
		return a.list(ctx)
	case attach.GC:
		return a.collect(ctx, r.Key.Network, r.Valid)
	case attach.Reconcile:
		return a.reconcile(ctx)
	case attach.Status:
		return &attach.Reply{}, a.status(ctx)
	}
	return nil, attach.Errorf(attach.CodeInvalid, "no method %.40q", r.Method)
}

// asError is an error as the plugin gets it. One that says nothing of its own is
// worth to be tried again.
func asError(err error) *attach.Error {
	var e *attach.Error
	if errors.As(err, &e) {
		return e
	}
	return &attach.Error{Code: attach.CodeAgain, Msg: err.Error()}
}

// status is an error if no port could be made now.
func (a *agent) status(ctx context.Context) error {
	d, err := a.dial(ctx)
	if err != nil {
		return attach.Errorf(attach.CodeAway, "%v", err)
	}
	d.Close()
	if a.Health == nil {
		return nil
	}
	if err := a.Health(); err != nil {
		return attach.Errorf(attach.CodeLimited, "%v", err)
	}
	return nil
}
