package service

import (
	"fmt"
	"sync"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/flowtable"
)

// counted knows since which listing each rule's counters are as they are, so that
// a client is told of those only that have counted since its last one.
type counted struct {
	life uint32 // of the server: cursors of another one mean nothing

	mu   sync.Mutex
	last *flowtable.Counters // of each rule: packets, and the number of the listing that first saw as many
	n    uint32              // listings so far
}

// close frees the memory.
func (c *counted) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		return nil
	}
	return c.last.Close()
}

// begin numbers a listing, and turns a cursor into the number of the listing
// that it is of: 0 if there was none. The caller holds mu.
func (c *counted) begin(cursor uint64) (since uint32, err error) {
	if c.last == nil {
		if c.last, err = flowtable.NewCounters(0); err != nil {
			return 0, fmt.Errorf("list counters: %w", err)
		}
	}
	if uint32(cursor>>32) == c.life && uint32(cursor) <= c.n {
		since = uint32(cursor)
	}
	c.n++
	return since, nil
}

// cursor names the latest listing.
func (c *counted) cursor() uint64 { return uint64(c.life)<<32 | uint64(c.n) }

// news reports whether a rule has counted after listing since, and notes what it
// has now.
func (c *counted) news(handle uint32, packets uint64, since uint32) bool {
	seen, when := c.last.Get(handle)
	if packets != seen {
		c.last.Add(handle, packets-seen, uint64(c.n)-when)
		when = uint64(c.n)
	}
	return packets > 0 && when > uint64(since)
}

// ListCounters implements api.FlowsServer.
func (f *flows) ListCounters(req *api.ListCountersRequest, stream api.Flows_ListCountersServer) error {
	all, err := f.news(req.GetSince())
	if err != nil {
		return err
	}
	for {
		n := min(numbersPerMessage, len(all.GetRules()))
		part := &api.ListCountersResponse{Rules: all.GetRules()[:n], Packets: all.GetPackets()[:n], Bytes: all.GetBytes()[:n]}
		all.Rules, all.Packets, all.Bytes = all.GetRules()[n:], all.GetPackets()[n:], all.GetBytes()[n:]
		last := len(all.GetRules()) == 0
		if last {
			part.Cursor = all.GetCursor()
		}
		if err := stream.Send(part); err != nil || last {
			return err
		}
	}
}

// news returns the counters that have changed since a listing. It is one after
// the other's turn, so that a number means the same to all of them.
func (f *flows) news(cursor uint64) (*api.ListCountersResponse, error) {
	c := &f.counted
	c.mu.Lock()
	defer c.mu.Unlock()
	since, err := c.begin(cursor)
	if err != nil {
		return nil, err
	}
	r := &api.ListCountersResponse{Cursor: c.cursor()}
	rules := f.handles(0, false)
	for i, n := range f.counts(rules) {
		if c.news(rules[i].handle, n.Packets, since) {
			r.Rules, r.Packets, r.Bytes = append(r.GetRules(), rules[i].id), append(r.GetPackets(), n.Packets), append(r.GetBytes(), n.Bytes)
		}
	}
	return r, nil
}

// counts returns the counters of rules. All at once: workers are asked what their
// programs have counted at each call.
func (f *flows) counts(rules []ruleHandle) []dataplane.RuleCount {
	handles := make([]uint32, len(rules))
	for i := range rules {
		handles[i] = rules[i].handle
	}
	return f.Switch.RuleCounts(handles)
}
