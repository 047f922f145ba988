package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

// listing is what a command that looks at the flow table knows of the switch: what
// its numbers are called.
type listing struct {
	bridges []*api.FlowBridge
	own     []*api.OwnDatapath
	ports   []*api.Port
	objects *flowObjects
	names   *flowtext.Names
}

// lookUp asks a dataplane for what it has names for. It must have the layout of
// words that we have.
func (a *app) lookUp(ctx context.Context, c *api.Client) (*listing, error) {
	t, err := c.Flows.GetFlowTable(ctx, &api.GetFlowTableRequest{})
	if err != nil {
		return nil, err
	}
	if err := flowapi.CheckLayout(t.GetFields()); err != nil {
		return nil, err
	}
	p, err := c.ListPorts(ctx, &api.ListPortsRequest{})
	if err != nil {
		return nil, err
	}
	l := &listing{bridges: t.GetBridges(), own: t.GetOwn(), ports: p.GetPorts()}
	o := &flowObjects{ctx: ctx, app: a, client: c}
	for _, b := range l.bridges {
		o.bridges = append(o.bridges, b.GetName())
	}
	l.objects = o
	l.names = &flowtext.Names{
		Port: l.portName, Datapath: l.datapathName, Flood: l.floodName, Drop: dropName,
		Set: o.set, Meter: o.meter, Group: o.group, Buckets: o.bucketsOf,
	}
	return l, nil
}

func (l *listing) portName(number uint32) string {
	for _, p := range l.ports {
		if p.GetNumber() == number {
			return p.GetSpec().GetName()
		}
	}
	return ""
}

func (l *listing) datapathName(id uint64) string {
	for _, b := range l.bridges {
		if b.GetDatapath() == id {
			return b.GetName()
		}
	}
	return ""
}

// ownRules says what the dataplane has rules of its own for in a datapath: a
// bridge, or wires.
func (l *listing) ownRules(datapath uint64) (whose string, own bool) {
	if datapath == 0 {
		return "", false
	}
	for _, d := range l.own {
		switch {
		case d.GetDatapath() != datapath:
		case d.GetBridge() == "":
			return "wires", true
		default:
			return "bridge " + d.GetBridge(), true
		}
	}
	return "", false
}

func (l *listing) floodName(id uint32) string {
	for _, b := range l.bridges {
		if b.GetFlood() == id {
			return b.GetName()
		}
	}
	return ""
}

// dropName says why the switch's own rules drop. What clients' numbers mean, they
// know.
func dropName(code uint32) string {
	if text := dataplane.DropText(code); !strings.HasPrefix(text, dataplane.DropText(flowtable.DropExplicit)) {
		return text
	}
	return ""
}

// bridge returns a bridge by its name.
func (l *listing) bridge(name string) (*api.FlowBridge, error) {
	for _, b := range l.bridges {
		if b.GetName() == name {
			return b, nil
		}
	}
	return nil, &api.Error{Kind: api.ErrNoBridge, Text: "no such bridge: " + name}
}

// port returns a port by its name, which must be of the bridge unless that is
// empty.
func (l *listing) port(bridge, name string) (*api.Port, error) {
	for _, p := range l.ports {
		if p.GetSpec().GetName() != name {
			continue
		}
		if of := p.GetSpec().GetBridge(); bridge != "" && of != bridge {
			return nil, &api.Error{Kind: api.ErrNoPort, Text: "port " + name + " is of bridge " + of + ", not of " + bridge}
		}
		return p, nil
	}
	return nil, &api.Error{Kind: api.ErrNoPort, Text: "no such port: " + name}
}

// masked is what messages say of words. Words that we don't know are left out.
func masked(m []*api.FlowMasked) []flowtable.Masked {
	var out []flowtable.Masked
	for _, w := range m {
		if w.GetWord() < flowtable.ContextWords {
			out = append(out, flowtable.Masked{Word: uint8(w.GetWord()), Value: w.GetValue(), Mask: w.GetMask()})
		}
	}
	return out
}

// ops are the steps of a program.
func ops(list []*api.FlowOp) []flowtable.Op {
	var out []flowtable.Op
	for _, o := range list {
		out = append(out, flowtable.Op{Code: uint8(o.GetCode()), Word: uint8(o.GetWord()), Arg: o.GetArg(), Value: o.GetValue(), Mask: o.GetMask()})
	}
	return out
}

// A receiver is the client's end of a listing.
type receiver[M any] interface{ Recv() (M, error) }

// each calls f with the messages of a listing.
func each[M any](s receiver[M], err error, f func(M)) error {
	for err == nil {
		var m M
		if m, err = s.Recv(); err == nil {
			f(m)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// joinAnd is what people write for several things that must hold.
func joinAnd(terms []string) string { return strings.Join(terms, ", ") }
