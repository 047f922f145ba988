package flows

import (
	"fmt"

	"millrace/control/logical"
	"millrace/flowtable"
)

// An objectMaker gives numbers to what actions refer to.
type objectMaker interface {
	// port is the number of a port of the bridge, which there is.
	port(name string) uint32
	// meter is the meter of a name, which there is.
	meter(name string) flowtable.MeterID
	// ownMeter is a meter that only this row has.
	ownMeter(kilobits, burst uint64) flowtable.MeterID
	// replyMeter is what bounds the packets that rows of the bridge make.
	replyMeter() flowtable.MeterID
	// group is the group of a name, which there is, as it is for a rule of
	// this table.
	group(name string, from *lowering) flowtable.SelectID
	// choice is a group that an action describes.
	choice(fields []flowtable.Field, buckets []flowtable.Bucket) flowtable.SelectID
}

// A lowering turns actions of the language into those of a flow table.
type lowering struct {
	at      *[logical.NumFields]flowtable.Field
	objects objectMaker
	fdb     uint32 // of the bridge
	zones   zones  // of its connections
	table   uint8  // that the actions are in
	family  family // of the packets
	tag     tag    // of the packet at this point of the list
	out     []flowtable.Action
}

// An actionError is an action that cannot be lowered: its verb is where it
// stands.
type actionError struct {
	verb string
	err  error
}

func (e *actionError) Error() string { return e.err.Error() }

// fail makes an actionError.
func fail(verb logical.Verb, format string, args ...any) error {
	return &actionError{string(verb), fmt.Errorf(format, args...)}
}

// list lowers a list: none is drop.
func (l *lowering) list(list []logical.Action) error {
	if len(list) == 0 {
		l.add(flowtable.Action{Code: flowtable.ActDrop})
		return nil
	}
	list, err := unstack(list)
	if l.out == nil {
		l.out = make([]flowtable.Action, 0, len(list))
	}
	for i := 0; i < len(list) && err == nil; i++ {
		err = l.action(list[i])
	}
	return err
}

func (l *lowering) add(a flowtable.Action) { l.out = append(l.out, a) }

// action lowers one action.
func (l *lowering) action(a logical.Action) error {
	switch a := a.(type) {
	case *logical.Load:
		return l.load(a)
	case *logical.Move:
		return l.move(a.To, a.From)
	case *logical.Exchange:
		return l.exchange(a.A, a.B)
	case *logical.Next:
		return l.next(a)
	case *logical.Simple:
		return l.simple(a.Verb)
	case *logical.Block:
		return l.block(a)
	case *logical.Select:
		return l.selectMember(a)
	case *logical.UseGroup:
		l.add(flowtable.Action{Code: flowtable.ActSelect, Arg: uint32(l.objects.group(a.Name, l))})
		l.tag = tagUnknown
	case *logical.FwdGroup:
		return l.fwdGroup(a)
	case *logical.UseMeter:
		l.add(flowtable.Action{Code: flowtable.ActMeter, Arg: uint32(l.objects.meter(a.Name))})
	case *logical.SetMeter:
		l.add(flowtable.Action{Code: flowtable.ActMeter, Arg: uint32(l.objects.ownMeter(a.Rate, a.Burst))})
	case *logical.Mirror:
		l.add(flowtable.Action{Code: flowtable.ActOutput, Arg: l.objects.port(a.Port)})
	case *logical.CheckPacketLarger:
		return l.into(a.To, flowtable.Action{Code: flowtable.ActLarger, Arg: uint32(a.Bytes)})
	case *logical.GetFDB, *logical.PutFDB, *logical.LookupFDB:
		return l.addressTable(a)
	case *logical.Zone:
		return l.zone(a)
	case *logical.NAT:
		return l.nat(a)
	case *logical.LoadBalance:
		return l.loadBalance(a)
	case *logical.Result:
		return l.result(a)
	case *logical.CommitAffinity:
		l.commitAffinity(a)
	default:
		return later(a)
	}
	return nil
}

// simple lowers an action that is a verb alone.
func (l *lowering) simple(v logical.Verb) error {
	switch v {
	case "output":
		l.add(flowtable.Action{Code: flowtable.ActOutput, Dst: l.at[logical.FieldOutport]})
	case "ct_clear":
		l.add(flowtable.Action{Code: flowtable.ActCTClear})
	case "ip.ttl--":
		l.add(flowtable.Action{Code: flowtable.ActDecTTL})
	case "ct_snat_to_vip":
		return l.snatToVIP()
	default:
		return later(&logical.Simple{Verb: v})
	}
	return nil
}

// block lowers clone, ct_commit, and the verbs that make a packet; no other block is for bridges.
func (l *lowering) block(a *logical.Block) error {
	switch a.Verb {
	case "clone":
	case "ct_commit":
		return l.commit(a)
	default:
		if kind, ok := replyKind(a.Verb); ok {
			return l.reply(a, kind)
		}
		return later(a)
	}
	copied := *l
	copied.out = nil
	if err := copied.list(a.List); err != nil {
		return err
	}
	l.add(flowtable.Action{Code: flowtable.ActClone, Nested: copied.out})
	return nil
}

// next lowers next. Bridges have one pipeline.
func (l *lowering) next(a *logical.Next) error {
	table := a.Table
	switch {
	case a.Pipeline == logical.PipelineEgress:
		return fail("next", "a bridge has no egress pipeline: its tables are 0 to %d", flowtable.TablesMax-1)
	case table == logical.NextTable:
		table = int(l.table) + 1
	}
	if table >= flowtable.TablesMax {
		return fail("next", "there is no table after %d", flowtable.TablesMax-1)
	}
	l.add(flowtable.Action{Code: flowtable.ActNext, Table: uint8(table)})
	l.tag = tagUnknown
	return nil
}

// addressTable lowers the verbs of the bridge's forwarding database.
func (l *lowering) addressTable(a logical.Action) error {
	switch a := a.(type) {
	case *logical.GetFDB:
		if a.Verb != "get_fdb" {
			return later(a)
		}
		mac, err := l.source(a.MAC)
		if err != nil {
			return err
		}
		return l.into(a.To, flowtable.Action{Code: flowtable.ActGetFDB, Arg: l.fdb, Src: mac})
	case *logical.LookupFDB:
		mac, port, err := l.station(a.MAC, a.Port)
		if err != nil {
			return err
		}
		return l.into(a.To, flowtable.Action{Code: flowtable.ActLookupFDB, Arg: l.fdb, Src: mac, Src2: port})
	case *logical.PutFDB:
		mac, port, err := l.station(a.MAC, a.Port)
		if err != nil {
			return err
		}
		l.add(flowtable.Action{Code: flowtable.ActPutFDB, Arg: l.fdb, Src: mac, Src2: port})
	}
	return nil
}

// station is an address and a port, as fields that are read.
func (l *lowering) station(mac, port logical.Ref) (m, p flowtable.Field, err error) {
	if m, err = l.source(mac); err == nil {
		p, err = l.source(port)
	}
	return m, p, err
}

// bitsIn is the width of a reference: 32 for ports.
func bitsIn(r logical.Ref) int {
	if r.Bits == 0 {
		return 32
	}
	return r.Bits
}

// lowBit is the lowest bit of a reference in its field.
func lowBit(r logical.Ref) int { return r.Symbol.Low + r.Low }

// source is a reference of 64 bits or fewer whose value is read.
func (l *lowering) source(r logical.Ref) (flowtable.Field, error) {
	f, ok := whole(l.at[r.Symbol.Field], lowBit(r), bitsIn(r))
	if !ok {
		return f, crossingRef(r)
	}
	return f, nil
}

// crossingRef is the error of bits that are no field of a flow table.
func crossingRef(r logical.Ref) error {
	return fail(logical.Verb(r.Symbol.Name), "bits %d..%d of %v cross from one half into the other", lowBit(r), lowBit(r)+bitsIn(r)-1, r.Symbol.Field)
}

// into adds an action whose result goes to a reference.
func (l *lowering) into(to logical.Ref, a flowtable.Action) error {
	f := l.at[to.Symbol.Field]
	dst, ok := whole(f, lowBit(to), bitsIn(to))
	switch {
	case !ok:
		return crossingRef(to)
	case to.Symbol.Field == logical.FieldVLANTCI:
		return fail(logical.Verb(to.Symbol.Name), "the tag can be given constants and other fields only")
	}
	a.Dst = dst
	l.add(a)
	return nil
}

// later says what a verb belongs to that this release does not have.
func later(a logical.Action) error {
	v := verbOf(a)
	return fail(v, "%s belongs to the OVN chassis, which this release does not have", v)
}

// verbOf is the verb of an action that bridges do not have.
func verbOf(a logical.Action) (v logical.Verb) {
	switch a := a.(type) {
	case *logical.Simple:
		v = a.Verb
	case *logical.Block:
		v = a.Verb
	case *logical.Result:
		v = a.Verb
	case *logical.GetNeighbour:
		v = a.Verb
	case *logical.PutNeighbour:
		v = a.Verb
	case *logical.LookupNeighbour:
		v = a.Verb
	case *logical.GetFDB:
		v = a.Verb
	case *logical.PutOptions:
		v = a.Verb
	case *logical.DHCPRelay:
		v = a.Verb
	case *logical.SetQueue:
		v = "set_queue"
	case *logical.Log:
		v = "log"
	case *logical.Sample:
		v = "sample"
	case *logical.TriggerEvent:
		v = "trigger_event"
	case *logical.BindVPort:
		v = "bind_vport"
	case *logical.HandleSvcCheck:
		v = "handle_svc_check"
	case *logical.FwdGroup:
		v = "fwd_group"
	case *logical.CommitECMP:
		v = "commit_ecmp_nh"
	}
	return v
}
