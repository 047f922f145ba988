package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"millrace/dataplane/api"
	"millrace/perf/ruleset"
)

// tune and settle are for OVS: millrace has one way to do it.
func (o *ours) tune(context.Context, tuning) error   { return nil }
func (o *ours) settle(context.Context, tuning) error { return nil }

// reset leaves the caches as they are: what earlier turns left only takes room.
func (o *ours) reset(context.Context) error { return nil }

func (o *ours) replace(ctx context.Context, rules ruleset.Set) error {
	var b strings.Builder
	if err := rules.WriteMillrace(&b); err != nil {
		return err
	}
	path := filepath.Join(o.dir, "rules")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return err
	}
	_, err := o.tool(ctx, "flow", "replace", "br0", "-f", path)
	return err
}

// connections is what the dataplane says of its memory.
func (o *ours) connections(ctx context.Context) (connectionCount, error) {
	c, err := api.Dial(ctx, o.runDir)
	if err != nil {
		return connectionCount{}, err
	}
	defer c.Close()
	m, err := c.Flows.GetMemory(ctx, &api.GetMemoryRequest{})
	for _, u := range m.GetUses() {
		if u.GetPart() == "connections" {
			return connectionCount{int(u.GetUsed()), over(float64(u.GetBytes()), float64(u.GetUsed()))}, err
		}
	}
	return connectionCount{}, errors.Join(err, fmt.Errorf("count connections: %w", errNotReady))
}

// forget makes the bridge anew, if it has connections: they go with it.
func (o *ours) forget(ctx context.Context) error {
	if n, err := o.connections(ctx); err != nil || n.Total == 0 {
		return err
	}
	if _, err := o.tool(ctx, "bridge", "del", "br0"); err != nil {
		return err
	}
	return o.configure(ctx, o.c)
}

func (o *ours) footprint() *footprint { return &o.memory }
func (o *ours) pid() int              { return o.process }

// prepare writes the rules into the database, and stops everything.
func (o *ours) prepare(ctx context.Context, rules ruleset.Set) error {
	err := o.replace(ctx, rules)
	o.close()
	return err
}

func (o *ours) launch(context.Context) error {
	if err := o.start(); err != nil {
		return err
	}
	return o.findDataplane()
}

func (o *ours) inForce(ctx context.Context) (int, error) {
	c, err := api.Dial(ctx, o.runDir)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	t, err := c.Flows.GetFlowTable(ctx, &api.GetFlowTableRequest{})
	return int(t.GetRules()), err
}

// entriesShown is how many entries of a cached program we look at: all of its
// masks are among them, for they are few (flowcache.MasksMax).
const entriesShown = 1024

// masks counts the different masks of the wildcard cache.
func (o *ours) masks(ctx context.Context) (int, error) {
	c, err := api.Dial(ctx, o.runDir)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	list, err := c.Flows.ListCached(ctx, &api.ListCachedRequest{EntriesMax: entriesShown})
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for {
		r, err := list.Recv()
		if errors.Is(err, io.EOF) {
			return len(seen), nil
		}
		if err != nil {
			return 0, err
		}
		for _, p := range r.GetPrograms() {
			for _, e := range p.GetEntries() {
				if !e.GetExact() {
					seen[maskText(e.GetMatch())] = true
				}
			}
		}
	}
}

// maskText is the masks of a match, without its values.
func maskText(match []*api.FlowMasked) string {
	var b strings.Builder
	for _, m := range match {
		fmt.Fprintf(&b, "%d/%x ", m.GetWord(), m.GetMask())
	}
	return b.String()
}

func (o *ours) changers(ctx context.Context) ([]changer, error) {
	direct, err := newAPIChanger(ctx, o.runDir)
	if err != nil {
		return nil, err
	}
	rows, err := newRowChanger(ctx, filepath.Join(o.runDir, "db.sock"))
	if err != nil {
		direct.close()
		return nil, err
	}
	return []changer{direct, rows}, nil
}

// apiChanger makes transactions of the dataplane's API, beside control, which
// does not know.
type apiChanger struct {
	c     *api.Client
	gated *api.FlowRule
	idles []*api.FlowRule
	out   []*api.FlowAction // to p1
	alt   []*api.FlowAction // to p3
}

// newAPIChanger finds the rules of ruleset.Gate among those in force.
func newAPIChanger(ctx context.Context, runDir string) (*apiChanger, error) {
	c, err := api.Dial(ctx, runDir)
	if err != nil {
		return nil, err
	}
	rules, err := listRules(ctx, c)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	a := &apiChanger{c: c}
	for _, r := range rules {
		switch r.GetPriority() {
		case ruleset.GatePriority:
			a.gated, a.out = r, r.GetActions()
		case ruleset.IdlePriority:
			a.idles = append(a.idles, r)
		}
	}
	for i, r := range a.idles {
		if fmt.Sprint(r.GetActions()) != fmt.Sprint(a.out) {
			a.alt = r.GetActions()
			a.idles[0], a.idles[i] = r, a.idles[0] // the first is left alone, for the next turn
		}
	}
	if a.gated == nil || a.alt == nil {
		return nil, errors.Join(fmt.Errorf("find the rules to change among %d: %w", len(rules), errNotReady), c.Close())
	}
	return a, nil
}

// listRules returns all rules of clients in force.
func listRules(ctx context.Context, c *api.Client) ([]*api.FlowRule, error) {
	list, err := c.Flows.ListRules(ctx, &api.ListRulesRequest{})
	if err != nil {
		return nil, err
	}
	var rules []*api.FlowRule
	for {
		r, err := list.Recv()
		if errors.Is(err, io.EOF) {
			return rules, nil
		}
		if err != nil {
			return nil, err
		}
		for _, s := range r.GetRules() {
			rules = append(rules, s.GetRule())
		}
	}
}

func (a *apiChanger) name() string { return "API" }

func (a *apiChanger) gate(ctx context.Context, alt bool) error { return a.lead(ctx, a.gated, alt) }

func (a *apiChanger) idle(ctx context.Context, rule int, alt bool) error {
	return a.lead(ctx, a.idles[rule%len(a.idles)], alt)
}

// lead replaces a rule by one that leads elsewhere.
func (a *apiChanger) lead(ctx context.Context, r *api.FlowRule, alt bool) error {
	if r.Actions = a.out; alt {
		r.Actions = a.alt
	}
	return transact(ctx, a.c, &api.TransactRequest{Changes: []*api.FlowChange{{Change: &api.FlowChange_Replace{Replace: r}}}})
}

func (a *apiChanger) close() { _ = a.c.Close() }

// transact makes one transaction of messages.
func transact(ctx context.Context, c *api.Client, messages ...*api.TransactRequest) error {
	t, err := c.Flows.Transact(ctx)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := t.Send(m); err != nil {
			_, why := t.CloseAndRecv()
			return errors.Join(err, why)
		}
	}
	_, err = t.CloseAndRecv()
	return err
}

// A swap is a transaction that puts one set of rules in the place of another.
type swap struct {
	c        *api.Client
	messages []*api.TransactRequest
}

// perMessage is how many changes go into a message of a transaction.
const perMessage = 1000

// newSwap returns the transaction that leads from some rules to others.
func newSwap(c *api.Client, from, to []*api.FlowRule) *swap {
	var changes []*api.FlowChange
	kept := map[uint64]bool{}
	for _, r := range to {
		kept[r.GetId()] = true
	}
	for _, r := range from {
		if !kept[r.GetId()] {
			changes = append(changes, &api.FlowChange{Change: &api.FlowChange_Remove{Remove: r.GetId()}})
		}
	}
	there := map[uint64]bool{}
	for _, r := range from {
		there[r.GetId()] = true
	}
	for _, r := range to {
		if !there[r.GetId()] {
			changes = append(changes, &api.FlowChange{Change: &api.FlowChange_Add{Add: r}})
		}
	}
	s := &swap{c: c}
	for len(changes) > 0 {
		n := min(perMessage, len(changes))
		s.messages = append(s.messages, &api.TransactRequest{Changes: changes[:n]})
		changes = changes[n:]
	}
	return s
}

func (s *swap) commit(ctx context.Context) error { return transact(ctx, s.c, s.messages...) }

// swaps lead from one generation of rules to the other and back by the API.
type swaps struct {
	c    *api.Client
	from []*api.FlowRule // of the first generation
	to   [2]*swap
}

// newSwaps remembers the rules in force.
func newSwaps(ctx context.Context, o *ours) (*swaps, error) {
	c, err := api.Dial(ctx, o.runDir)
	if err != nil {
		return nil, err
	}
	s := &swaps{c: c}
	s.from, err = listRules(ctx, c)
	return s, err
}

// learn takes the rules in force for the other generation.
func (s *swaps) learn(ctx context.Context) error {
	other, err := listRules(ctx, s.c)
	s.to = [2]*swap{newSwap(s.c, other, s.from), newSwap(s.c, s.from, other)}
	return err
}

func (s *swaps) close() { _ = s.c.Close() }

// explain says which frames the switch has dropped, and why.
func (o *ours) explain(ctx context.Context) string {
	out, err := o.tool(ctx, "drops")
	if err != nil {
		return err.Error()
	}
	return out
}
