package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"millrace/control/egress/policy"
)

// A visit is one attempt to reach a target, with what is known of it.
type visit struct {
	Class   policy.Class
	Port    string         // by what it was dialled: the port's name, host, or nothing
	Addr    netip.AddrPort // dialled, or tried last
	Resolve time.Duration
	Connect time.Duration
}

// reach opens a connection to what a request names, if the policy lets it. What
// is dialled is the address that was judged: a name that changes meanwhile
// changes nothing.
func (a *Agent) reach(ctx context.Context, protocol, address string) (net.Conn, visit, error) {
	p := a.cfg.Policy()
	v := visit{Class: policy.Deny}
	t, err := p.Read(protocol, address)
	if err != nil {
		return nil, v, err
	}
	start := time.Now()
	addrs, err := a.addresses(ctx, p, t)
	v.Resolve = time.Since(start)
	if err != nil {
		if _, denied := errors.AsType[*policy.DeniedError](err); !denied {
			v.Class = policy.Unknown
		}
		return nil, v, err
	}
	start = time.Now()
	c, err := a.tryAll(ctx, p, t, addrs, &v)
	v.Connect = time.Since(start)
	return c, v, err
}

// tryAll dials those of a target's addresses that the policy lets through, one after
// the other, until one is connected.
func (a *Agent) tryAll(ctx context.Context, p *policy.Policy, t policy.Target, addrs []netip.Addr, v *visit) (net.Conn, error) {
	var errs []error
	for i, addr := range addrs {
		to := netip.AddrPortFrom(addr, t.Port)
		class, err := p.Judge(addr, t.Port)
		if err == nil {
			v.Class, v.Port, v.Addr = class, a.way(class), to
			var c net.Conn
			if c, err = a.dialWithin(ctx, len(addrs)-i, class, t.Network, to); err == nil {
				return c, nil
			}
		} else if v.Class == policy.Deny {
			v.Addr = to
		}
		errs = append(errs, err)
	}
	return nil, mostTelling(errs)
}

// dialWithin is dial with one part in n of the time that ctx leaves: an address that
// does not answer leaves some for the others.
func (a *Agent) dialWithin(ctx context.Context, n int, class policy.Class, network string, to netip.AddrPort) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(n))
		defer cancel()
	}
	return a.dial(ctx, class, network, to)
}

// addresses returns what a target's address is, or what its name stands for.
func (a *Agent) addresses(ctx context.Context, p *policy.Policy, t policy.Target) ([]netip.Addr, error) {
	if t.Addr.IsValid() {
		return []netip.Addr{t.Addr}, nil
	}
	by, err := p.Lookup(t)
	if err != nil {
		return nil, err
	}
	found, ok := a.cfg.Static[t.Name]
	if !ok {
		r := map[policy.Resolver]Resolver{policy.HostResolver: a.cfg.HostNames, policy.PortResolver: a.cfg.PortNames}[by]
		if r == nil {
			return nil, fmt.Errorf("look up %s: %w: there is no resolver for %s", t.Name, errNoHost, by)
		}
		if found, err = r.LookupNetIP(ctx, "ip", t.Name); err != nil {
			return nil, fmt.Errorf("look up %s: %w", t.Name, err)
		}
	}
	var fit []netip.Addr
	for _, f := range found {
		if f = f.Unmap(); t.Fits(f) {
			fit = append(fit, f)
		}
	}
	if len(fit) == 0 {
		return nil, fmt.Errorf("look up %s: %w with an address of %s", t.Name, errNoHost, t.Network)
	}
	return fit, nil
}

// errNoHost has the words by which servers know what to tell clients.
var errNoHost = errors.New("no such host")

// way is by what targets of a class are reached.
func (a *Agent) way(class policy.Class) string {
	if class.ByPort() {
		return a.cfg.PortName
	}
	return "host"
}

// dial opens a connection to an address that was judged.
func (a *Agent) dial(ctx context.Context, class policy.Class, network string, to netip.AddrPort) (net.Conn, error) {
	d := a.cfg.Host
	if class.ByPort() {
		d = a.cfg.Port
	}
	if d == nil {
		return nil, fmt.Errorf("dial %s: no route to host: %s are reached by a port of the switch, and this agent has none (--netns says where it is)", to, class)
	}
	return d.DialContext(ctx, network, to.String())
}

// mostTelling returns the error of an attempt that was allowed, if there is one.
func mostTelling(errs []error) error {
	for _, err := range errs {
		if _, denied := errors.AsType[*policy.DeniedError](err); !denied {
			return err
		}
	}
	return errs[0]
}

// A result of a request, in one word. It is a label of metrics.
type result string

// Results.
const (
	resultOK       result = "ok"
	resultDenied   result = "denied"
	resultTimeout  result = "timeout"
	resultRefused  result = "refused"
	resultRoute    result = "unreachable"
	resultName     result = "name"
	resultCanceled result = "canceled"
	resultOther    result = "error"
	resultBroken   result = "broken" // it was connected, and did not end in good order
)

// dialled reports whether a request came so far as to be a connection.
func (r result) dialled() bool { return r == resultOK || r == resultBroken }

// judge puts an error of reach in a word, and in a text for the server: those in
// front of it choose an HTTP status by words in it.
func judge(ctx context.Context, err error) (result, string) {
	_, denied := errors.AsType[*policy.DeniedError](err)
	_, name := errors.AsType[*net.DNSError](err)
	name = name || errors.Is(err, errNoHost)
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		timeout = true
	}
	switch {
	case err == nil:
		return resultOK, ""
	case denied:
		return resultDenied, "connection refused: " + err.Error()
	case errors.Is(context.Cause(ctx), context.Canceled):
		return resultCanceled, "dial canceled"
	case timeout:
		return resultTimeout, "timeout: " + err.Error()
	case name:
		if text := err.Error(); strings.Contains(text, errNoHost.Error()) {
			return resultName, text
		}
		return resultName, "no such host: " + err.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return resultRefused, err.Error()
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return resultRoute, err.Error()
	}
	return resultOther, err.Error()
}
