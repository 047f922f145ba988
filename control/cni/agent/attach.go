package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"millrace/control/bridge"
	"millrace/control/cni/attach"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

const (
	forceTimeout = 20 * time.Second // until a port is in force
	goneTimeout  = 8 * time.Second  // until it is gone: if it takes longer, a note is left
	linkTimeout  = 5 * time.Second  // and until its device forwards
	undoTimeout  = 5 * time.Second
)

// judge refuses what cannot be an attachment. The plugin has said it better; this is
// for other callers.
func judge(at *attach.Attachment) error {
	if at == nil {
		return attach.Errorf(attach.CodeInvalid, "no attachment")
	}
	bad := func(what string, err error) error {
		return attach.Errorf(attach.CodeInvalid, "%s: %v", what, err)
	}
	if err := at.CheckNames(); err != nil {
		return bad("names", err)
	}
	if err := attach.CheckName(at.Bridge); err != nil {
		return bad("bridge", err)
	}
	for _, s := range at.IPs {
		if _, err := netip.ParsePrefix(s); err != nil {
			return bad("ips", err)
		}
	}
	if err := judgeLimits(at); err != nil {
		return err
	}
	switch mac, err := net.ParseMAC(at.MAC); {
	case err != nil || len(mac) != 6 || mac[0]&1 != 0:
		return bad("mac", fmt.Errorf("%.40q is not the address of one station", at.MAC))
	case at.Kind != attach.VhostUser && at.Kind != attach.TAP && at.Kind != attach.Veth:
		return bad("kind", fmt.Errorf("%.40q", at.Kind))
	case at.Kind == attach.TAP && !filepath.IsAbs(at.Netns):
		return bad("netns", fmt.Errorf("%.80q is no absolute path", at.Netns))
	case at.MTU < bridge.MTUMin || at.MTU > bridge.MTUMax:
		return bad("mtu", fmt.Errorf("%d is not in %d..%d", at.MTU, bridge.MTUMin, bridge.MTUMax))
	case at.VLAN < 0 || at.VLAN > bridge.VLANMax:
		return bad("vlan", fmt.Errorf("%d is not in 0..%d", at.VLAN, bridge.VLANMax))
	case at.Queues < 0 || at.Queues > bridge.QueuesMax:
		return bad("queues", fmt.Errorf("%d is not in 0..%d", at.Queues, bridge.QueuesMax))
	}
	return nil
}

// attach makes the port of an attachment, and returns when it is in force: a tap or
// veth forwards; a vhost-user port waits for its application. What fails leaves
// nothing behind. A caller that has hung up gets none: its DEL may have been here.
func (a *agent) attach(ctx context.Context, at *attach.Attachment, hungUp func() bool) (*attach.Reply, error) {
	if err := judge(at); err != nil {
		return nil, err
	}
	if err := sameNetns(at); err != nil {
		return nil, err
	}
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	defer a.lockAlone(at)()
	if err := a.alone(ctx, d, at); err != nil {
		return nil, err
	}
	if err := a.evict(ctx, d, at); err != nil {
		return nil, err
	}
	defer a.calls.lock(at.Port())()
	if hungUp() {
		return nil, errors.New("the CNI plugin has ended before its port was made")
	}
	if err := a.forget(at.Key); err != nil {
		return nil, err
	}
	if err := a.consult(ctx, at); err != nil {
		return nil, err
	}
	p, err := a.build(ctx, d, at)
	if err != nil {
		return nil, errors.Join(err, a.undo(ctx, at))
	}
	a.Log.Info("attached", zap.String("port", at.Port()), zap.String("kind", at.Kind), zap.String("bridge", at.Bridge), zap.String("pod", at.Pod.Namespace+"/"+at.Pod.Name), zap.String("interface", at.IfName))
	return &attach.Reply{Attached: &attach.Attached{Port: at.Port(), Socket: p.socket, InPod: p.inPod, Role: role(at), Directory: p.dir}}, nil
}

// role is the application's, where there is one.
func role(at *attach.Attachment) string {
	if at.Kind != attach.VhostUser {
		return ""
	}
	return at.Role()
}

// build makes directory and rows, and waits until they are in force.
func (a *agent) build(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment) (place, error) {
	p, next, err := a.claim(ctx, d, at)
	if err == nil {
		err = inForce(ctx, d, next, forceTimeout)
	}
	if err == nil {
		err = a.goodPort(ctx, d, at, linkTimeout)
	}
	if err == nil {
		err = a.announce(ctx, at, p)
	}
	return p, err
}

// claim makes the directory, and the rows by which it is known whose it is, with nobody between.
func (a *agent) claim(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment) (p place, next promise, err error) {
	defer a.calls.lock(a.placeOf(at).dir)()
	if p, err = a.makePlace(at); err != nil {
		return p, promise{}, err
	}
	next, err = commit(ctx, d, func() ([]ovsdb.Op, error) { return a.put(ctx, d, at, p) })
	return p, next, err
}

// goodPort is an error if a port is not as it should be, after it had some time to
// become so.
func (a *agent) goodPort(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment, limit time.Duration) error {
	where := is("name", at.Port())
	for end := time.Now().Add(limit); ; {
		rows, err := d.Select(ctx, model.InterfaceTable, where)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return attach.Errorf(attach.CodeDifferent, "port %s: somebody else has deleted it", at.Port())
		}
		i := rows[0].Row.(*model.Interface)
		up := i.LinkState != nil && *i.LinkState == model.InterfaceLinkStateUp
		switch {
		case i.Error != nil:
			return attach.Errorf(attach.CodeRefused, "port %s: %s", at.Port(), *i.Error)
		case i.Ofport != nil && *i.Ofport == bridge.OfportBad:
			return attach.Errorf(attach.CodeRefused, "port %s could not be made: `millrace status` says why", at.Port())
		case i.Ofport != nil && (up || at.Kind == attach.VhostUser):
			return nil
		}
		left := time.Until(end)
		if left <= 0 {
			return attach.Errorf(attach.CodeAgain, "port %s does not forward after %v: %s", at.Port(), limit, i.Status["reason"])
		}
		row := map[string]any{"ofport": optional(i.Ofport), "link_state": optional(i.LinkState)}
		if err := await(ctx, d, model.InterfaceTable, where, "!=", row, min(left, time.Second)); err != nil {
			return err
		}
	}
}

// optional is a column that may have no value.
func optional[T any](v *T) any {
	if v == nil {
		return none()
	}
	return *v
}

// deref is what p points to, or zero.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// undo removes what an attach has left, also when its caller has gone.
func (a *agent) undo(ctx context.Context, at *attach.Attachment) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return a.take(ctx, at)
}

// detach removes the port of an attachment, its socket and its directory. hint says what it was, should its row be gone; it
// may be nil.
func (a *agent) detach(ctx context.Context, k attach.Key, hint *attach.Attachment) error {
	if hint == nil || hint.Key != k {
		hint = &attach.Attachment{Key: k}
	}
	if err := hint.CheckNames(); err != nil {
		return attach.Errorf(attach.CodeInvalid, "%v", err)
	}
	defer a.calls.lock(k.Port())()
	return a.take(ctx, hint)
}

// take removes what there is of an attachment. Its lock is held. What its row says is noted first: whoever takes over from an
// agent that was killed has no row to read.
func (a *agent) take(ctx context.Context, at *attach.Attachment) error {
	d, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	old, index := at, 0
	next, err := commit(ctx, d, func() ([]ovsdb.Op, error) {
		rows, err := d.Read(ctx, nil, ovsdb.Query{Table: model.PortTable, Where: is("name", at.Port())}, ovsdb.Query{Table: model.InterfaceTable, Where: is("name", at.Port())})
		if err != nil {
			return nil, err
		}
		uuid, row := first(rows[0])
		if row == nil {
			return nil, nil
		}
		r, err := parse(uuid, row)
		if err != nil || r == nil {
			a.Log.Warn("port is somebody else's and stays", zap.String("port", at.Port()), zap.Error(err))
			return nil, nil
		}
		old = &r.Attachment
		if len(rows[1]) > 0 {
			index = deref(rows[1][0].Row.(*model.Interface).Ifindex)
		}
		if err := attach.Note(a.RunDir, old); err != nil {
			a.Log.Warn("goes on without a note", zap.Error(err))
		}
		return remove(uuid, row), nil
	})
	if err == nil && next.next == 0 { // the row may have gone just before, and its port be there still: the switch makes its device anew
		next, err = read(ctx, d, nil)
	}
	if err == nil {
		err = inForce(ctx, d, next, goneTimeout)
	}
	if err == nil {
		err = errors.Join(removeDevice(old, index), a.vacate(ctx, d, old))
	}
	if err != nil {
		return err
	}
	if old != at {
		a.Log.Info("detached", zap.String("port", at.Port()), zap.String("pod", old.Pod.Namespace+"/"+old.Pod.Name), zap.String("interface", at.IfName))
	}
	return a.forget(at.Key)
}

// find returns the attachment of a key, if there is one.
func (a *agent) find(ctx context.Context, k attach.Key) (*attach.Reply, error) {
	if err := k.Check(); err != nil {
		return nil, attach.Errorf(attach.CodeInvalid, "%v", err)
	}
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	uuid, row, err := port(ctx, d, k.Port())
	if err != nil || row == nil {
		return &attach.Reply{}, err
	}
	r, err := parse(uuid, row)
	if err != nil || r == nil {
		return &attach.Reply{}, err
	}
	return &attach.Reply{Attachments: []attach.Attachment{r.Attachment}}, nil
}

// list returns all attachments, by port.
func (a *agent) list(ctx context.Context) (*attach.Reply, error) {
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := a.records(ctx, d)
	reply := &attach.Reply{}
	for _, r := range list {
		reply.Attachments = append(reply.Attachments, r.Attachment)
	}
	return reply, err
}

// check is an error if the port of an attachment is not there as it was asked for.
func (a *agent) check(ctx context.Context, at *attach.Attachment) (*attach.Reply, error) {
	if err := judge(at); err != nil {
		return nil, err
	}
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	uuid, row, err := port(ctx, d, at.Port())
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, attach.Errorf(attach.CodeDifferent, "the switch has no port for it")
	}
	r, err := parse(uuid, row)
	if err != nil || r == nil {
		return nil, attach.Errorf(attach.CodeDifferent, "port %s is somebody else's", at.Port())
	}
	if what := differs(at, &r.Attachment); what != "" {
		return nil, attach.Errorf(attach.CodeDifferent, "port %s was made with another %s", at.Port(), what)
	}
	err = a.goodPort(ctx, d, at, time.Second)
	var e *attach.Error
	if errors.As(err, &e) && e.Code == attach.CodeAgain {
		e.Code = attach.CodeDifferent // it did forward
	}
	if err != nil {
		return nil, err
	}
	return &attach.Reply{}, a.checkPlace(at)
}

// equal reports whether two values are there and the same, or are both not there.
func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// differs names the first thing in which two attachments differ that CHECK knows of.
func differs(want, have *attach.Attachment) string {
	for _, c := range []struct {
		what string
		same bool
	}{
		{"kind", want.Kind == have.Kind},
		{"bridge", want.Bridge == have.Bridge},
		{"vlan", want.VLAN == have.VLAN},
		{"trunk", fmt.Sprint(want.Trunk) == fmt.Sprint(have.Trunk)},
		{"mtu", want.MTU == have.MTU},
		{"mac", want.MAC == have.MAC},
		{"role", want.Server == have.Server},
		{"rate of what it sends", equal(want.Send, have.Send)},
		{"rate of what it receives", equal(want.Receive, have.Receive)},
		{"port security", want.Security == have.Security},
	} {
		if !c.same {
			return c.what
		}
	}
	return ""
}
