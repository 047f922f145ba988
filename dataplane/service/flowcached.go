package service

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
)

const (
	cachedBytes      = 1 << 30 // of a listing
	cachedPerMessage = 128     // programs
	messageBytes     = 128 << 10
	entriesUsual     = 8 // keys of a program that are told unless the client says otherwise
	entriesMost      = 1024
)

// ListCached implements api.FlowsServer. The switch waits while it is asked, so
// nothing is sent before it has told all.
func (f *flows) ListCached(req *api.ListCachedRequest, stream api.Flows_ListCachedServer) error {
	entries := int(req.GetEntriesMax())
	switch {
	case entries == 0:
		entries = entriesUsual
	case entries > entriesMost:
		var c checker
		c.fail("entries_max", "%d is more than %d", entries, entriesMost)
		return c.err
	}
	sp, err := newSpool(cachedBytes, 0)
	if err != nil {
		return err
	}
	err = f.cached(sp, req.GetPort(), entries)
	if err == nil {
		err = sp.send(stream)
	}
	return errors.Join(err, sp.close())
}

// cached puts what is cached into messages.
func (f *flows) cached(sp *spool, port string, entries int) error {
	ids := f.ruleNames()
	m, size := &api.ListCachedResponse{}, 0
	flush := func() {
		if b := sp.room(proto.Size(m)); b != nil {
			_, _ = proto.MarshalOptions{}.MarshalAppend(b[:0], m) // fails for strings that are not UTF-8 only
		}
		m, size = &api.ListCachedResponse{}, 0
	}
	err := f.Switch.Cached(port, entries, func(p *dataplane.CachedProgram) bool {
		msg := toCached(p, ids)
		m.Programs, size = append(m.GetPrograms(), msg), size+proto.Size(msg)
		if len(m.GetPrograms()) == cachedPerMessage || size >= messageBytes {
			flush()
		}
		return !sp.full
	})
	if len(m.GetPrograms()) > 0 {
		flush()
	}
	if err == nil && sp.full {
		err = &api.Error{Code: codes.ResourceExhausted, Text: fmt.Sprintf("list cached programs: they take more than %d bytes: ask for one port, or for fewer keys", cachedBytes)}
	}
	return err
}

// ruleNames returns the ids of all rules by their handles.
func (f *flows) ruleNames() map[uint32]uint64 {
	ids := map[uint32]uint64{}
	f.Switch.Tables().EachBrief(func(b flowtable.Brief) bool {
		ids[b.Handle] = uint64(b.ID)
		return true
	})
	return ids
}

// toCached returns a program as a message. Rules that went are left out.
func toCached(p *dataplane.CachedProgram, ids map[uint32]uint64) *api.CachedProgram {
	m := &api.CachedProgram{
		Cpu: uint32(p.CPU), Packets: p.Packets, Bytes: p.Bytes, Ops: flowapi.ToOps(p.Ops),
		NEntries: uint64(p.NEntries), Stale: p.Stale,
	}
	if !outputs(p.Ops) {
		m.Drop, m.DropReason = p.Drop, dataplane.DropText(p.Drop)
	}
	for i := range p.Entries {
		e := &p.Entries[i]
		m.Entries = append(m.Entries, &api.CachedEntry{Match: flowapi.ToMasked(e.Key[:], e.Mask[:]), Exact: e.Exact, IdleSeconds: e.Idle.Seconds()})
	}
	for _, h := range p.Rules {
		if id := ids[h]; id != 0 {
			m.Rules = append(m.Rules, id)
		}
	}
	return m
}
