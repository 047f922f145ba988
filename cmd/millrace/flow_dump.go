package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

// A dumpQuery says what of the flow table is wanted.
type dumpQuery struct {
	bridge string
	table  int
	own    bool
	cache  bool
	port   string
	keys   uint32
}

// dumpTimeout is how long a dump may take: a million rules are a lot of text.
const dumpTimeout = 2 * time.Minute

func (a *app) flowDumpCmd() *cobra.Command {
	var q dumpQuery
	cmd := &cobra.Command{
		Use:   "dump [BRIDGE]",
		Short: "List wires, learned addresses and rules with their hits",
		Long: `Lists what decides where frames go, with the frames that each line has decided about.

First the wires, which take all frames of a port, then what the bridges that learn
know. A frame that no line matches is flooded to the ports of its VLAN. The hits of
a wire are the frames received since it was made.

Then the rules of the bridges that run rules (other_config:millrace-pipeline=flows),
by table, the highest priority first: the first rule of table 0 that matches a frame
decides, and its actions may go on in another table. They are in the language in
which they were written, as far as it can be told from what they were compiled to:

  ip4 && tcp.dst == 80              one port of TCP over IPv4
  ip4.src == $web, inport == @vms   a member of a set, which has its name if the
                                    Millrace database can be asked
  1                                 all frames

With --cache, it lists what the workers have cached instead: programs, each with the
keys that lead to it. A frame that agrees with a key is not looked up in the tables.
A program is stale when a change may concern it; its next frame finds that out.`,
		Example: `  millrace flow dump
  millrace flow dump br0 --table 3
  millrace flow dump br0 --cache --port vm1
  millrace flow dump br0 --json | jq '.rules | sort_by(-.n_packets) | .[:10]'
  millrace flow dump br0 --json | jq '.entries | sort_by(-.hits) | .[:10]'`,
		Args:              between(0, 1, "BRIDGE"),
		ValidArgsFunction: byPosition(a.bridgeNames()),
	}
	f := cmd.Flags()
	f.StringVar(&q.bridge, "bridge", "", "what this bridge has, as the argument BRIDGE says")
	f.IntVar(&q.table, "table", -1, "rules of this table only, 0 to 255")
	f.Lookup("table").DefValue = "all"
	f.BoolVar(&q.own, "own", false, "also the rules that the switch has made itself, for bridges that learn and for wires")
	f.BoolVar(&q.cache, "cache", false, "list cached programs")
	f.StringVar(&q.port, "port", "", "with --cache: programs of frames that come by this port")
	f.Uint32Var(&q.keys, "keys", 8, "with --cache: keys to list of each program, 1 to 1024")
	completeWith(cmd, "bridge", a.bridgeNames())
	completeWith(cmd, "port", a.portNames())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := q.check(cmd, firstOf(args)); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), dumpTimeout)
		defer cancel()
		return a.connect(ctx, cmd, args, func(ctx context.Context, c *api.Client, _ []string) error {
			if q.cache {
				return a.portless(ctx, q.bridge, "programs", object{{"programs", []any{}}}, a.dumpCache(ctx, c, &q))
			}
			nothing := append(toJSON(&api.ListEntriesResponse{}), field{"rules", []any{}})
			return a.portless(ctx, q.bridge, "rules", nothing, a.dumpFlows(ctx, c, &q))
		})
	}
	return cmd
}

// check makes one of what arguments and flags say.
func (q *dumpQuery) check(cmd *cobra.Command, bridge string) error {
	switch {
	case bridge != "" && q.bridge != "" && bridge != q.bridge:
		return usage(cmd, "BRIDGE is %s, and --bridge %s: leave one out", bridge, q.bridge)
	case cmd.Flag("table").Changed && (q.table < 0 || q.table >= flowtable.TablesMax):
		return usage(cmd, "--table: %d is not a table: they are 0..%d", q.table, flowtable.TablesMax-1)
	case q.cache && (q.own || q.table >= 0):
		return usage(cmd, "--cache lists programs, which are of no table: leave out --table and --own")
	case !q.cache && (q.port != "" || cmd.Flag("keys").Changed):
		return usage(cmd, "--port and --keys are for --cache")
	case q.keys < 1 || q.keys > 1024:
		return usage(cmd, "--keys: %d is not in 1..1024", q.keys)
	}
	q.bridge = cmp.Or(q.bridge, bridge)
	return nil
}

// A dump is what there is of a bridge, or of all.
type dump struct {
	*listing
	query   *dumpQuery
	entries *api.ListEntriesResponse
	rules   []dumpRule
}

// A dumpRule is a rule in words.
type dumpRule struct {
	rule           flowtable.Rule
	bridges        []string // of its datapath, or of those of its group
	own            string   // what the switch has made it for, if it has
	packets, bytes uint64
}

func (a *app) dumpFlows(ctx context.Context, c *api.Client, q *dumpQuery) error {
	l, err := a.lookUp(ctx, c)
	if err != nil {
		return err
	}
	d := &dump{listing: l, query: q}
	if d.entries, err = c.Entries(ctx, q.bridge); err != nil {
		return err
	}
	if err := d.ask(ctx, c); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(append(toJSON(d.entries), field{"rules", d.json()}))
	}
	d.print(a)
	return nil
}

// ask lists the rules.
func (d *dump) ask(ctx context.Context, c *api.Client) error {
	req := &api.ListRulesRequest{Counters: true, Bridges: d.query.own}
	if d.query.bridge != "" && !d.query.own {
		b, err := d.bridge(d.query.bridge)
		if err != nil {
			return err
		}
		req.Datapath = b.GetDatapath()
	}
	if err := d.objects.list(); err != nil {
		return err
	}
	s, err := c.Flows.ListRules(ctx, req)
	var bad error
	err = each(s, err, func(m *api.ListRulesResponse) {
		for _, r := range m.GetRules() {
			rule, err := flowapi.FromRule(r.GetRule())
			if err != nil && bad == nil {
				bad = fmt.Errorf("rule %016x of the dataplane: %w", r.GetRule().GetId(), err)
			}
			own, _ := d.ownRules(rule.Datapath)
			line := dumpRule{rule, d.bridgesOf(&rule), own, r.GetPackets(), r.GetBytes()}
			if d.wants(&line) {
				d.rules = append(d.rules, line)
			}
		}
	})
	slices.SortFunc(d.rules, compareRules)
	if err == nil {
		err = bad
	}
	return err
}

// wants reports whether a rule is one that is asked for.
func (d *dump) wants(r *dumpRule) bool {
	q := d.query
	return (q.table < 0 || int(r.rule.Table) == q.table) && (q.bridge == "" || r.own == "bridge "+q.bridge || slices.Contains(r.bridges, q.bridge))
}

// bridgesOf returns the names of the bridges whose frames a rule is for.
func (d *dump) bridgesOf(r *flowtable.Rule) []string {
	datapaths := []uint64{r.Datapath}
	if r.Group != 0 {
		datapaths = d.objects.datapaths[r.Group]
	}
	var out []string
	for _, id := range datapaths {
		if name := d.datapathName(id); name != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// compareRules orders rules as they are looked up.
func compareRules(a, b dumpRule) int {
	return cmp.Or(
		cmp.Compare(a.rule.Datapath, b.rule.Datapath), cmp.Compare(a.rule.Group, b.rule.Group), cmp.Compare(a.rule.Table, b.rule.Table),
		cmp.Compare(b.rule.Priority, a.rule.Priority), cmp.Compare(a.rule.ID, b.rule.ID))
}

// print prints for people: learning first, then the rules of each bridge.
func (d *dump) print(a *app) {
	t := newTable("MATCH", "ACTION", ">HITS", ">AGE")
	for _, w := range d.entries.GetWires() {
		t.add("in_port="+w.GetIn(), "output:"+w.GetOut(), count(w.GetHits()), "")
	}
	for _, e := range d.entries.GetEntries() {
		age := span(seconds(e.GetAgeSeconds()))
		if e.GetStatic() {
			age = "static"
		}
		t.add(fmt.Sprintf("bridge=%s,vlan=%d,eth.dst=%s", e.GetBridge(), e.GetVlan(), e.GetMac()), "output:"+e.GetPort(), count(e.GetHits()), age)
	}
	shown := d.query.table < 0 && (len(t.rows) > 0 || d.learns())
	if shown {
		t.print(a.out, "no entries: all frames are flooded")
	}
	for _, s := range d.sections() {
		if shown {
			fmt.Fprintln(a.out)
		}
		shown = true
		d.printSection(a, s)
	}
}

// learns reports whether one of the bridges that are asked for learns, or there
// are none.
func (d *dump) learns() bool {
	return len(d.bridges) == 0 || slices.ContainsFunc(d.bridges, func(b *api.FlowBridge) bool {
		return b.GetPipeline() != api.Pipeline_PIPELINE_FLOWS && (d.query.bridge == "" || b.GetName() == d.query.bridge)
	})
}

// A section is the rules of a datapath or of a group.
type section struct {
	title string
	none  string // what it means that there are none
	rules []dumpRule
}

// sections are the rules by whom they are for; bridges that run rules are there
// also if they have none.
func (d *dump) sections() []section {
	var out []section
	for _, b := range d.bridges {
		if d.query.bridge != "" && b.GetName() != d.query.bridge {
			continue
		}
		s := section{title: "bridge " + b.GetName(), none: "all its frames are dropped"}
		s.rules = d.pick(func(r *flowtable.Rule) bool { return r.Group == 0 && r.Datapath == b.GetDatapath() })
		switch runs := b.GetPipeline() == api.Pipeline_PIPELINE_FLOWS; {
		case !runs && len(s.rules) == 0:
			continue
		case !runs:
			s.title += " (which learns: the rules have no effect)"
		case d.query.table >= 0:
			s.none = "frames that come here are dropped"
		}
		out = append(out, s)
	}
	return append(out, d.others()...)
}

// pick returns some of the rules.
func (d *dump) pick(want func(*flowtable.Rule) bool) []dumpRule {
	var out []dumpRule
	for _, r := range d.rules {
		if want(&r.rule) {
			out = append(out, r)
		}
	}
	return out
}

// others are the rules of groups, and of datapaths that are no bridge's.
func (d *dump) others() []section {
	var out []section
	for _, r := range d.rules {
		if r.rule.Group == 0 && len(r.bridges) > 0 {
			continue
		}
		title := fmt.Sprintf("datapath %016x", r.rule.Datapath)
		if r.own != "" {
			title = r.own + " (rules of the switch's own)"
		}
		if r.rule.Group != 0 {
			title = fmt.Sprintf("group %d of datapaths (bridges %s)", r.rule.Group, cmp.Or(joinAnd(r.bridges), "none"))
		}
		if len(out) == 0 || out[len(out)-1].title != title {
			out = append(out, section{title: title})
		}
		s := &out[len(out)-1]
		s.rules = append(s.rules, r)
	}
	return out
}

func (d *dump) printSection(a *app, s section) {
	if len(s.rules) == 0 {
		fmt.Fprintf(a.out, "%s: no rules: %s\n", s.title, s.none)
		return
	}
	fmt.Fprintf(a.out, "%s: %s\n", s.title, plural(len(s.rules), "rule"))
	t := newTable(">TABLE", ">PRIORITY", ">PACKETS", ">BYTES", "MATCH", "ACTIONS")
	for i := range s.rules {
		r := &s.rules[i]
		t.add(fmt.Sprint(r.rule.Table), fmt.Sprint(r.rule.Priority), count(r.packets), count(r.bytes), d.match(&r.rule), d.actions(&r.rule))
	}
	t.print(a.out, "")
}

func (l *listing) match(r *flowtable.Rule) string { return flowtext.Match(r.Match, r.Preds, l.names) }

func (l *listing) actions(r *flowtable.Rule) string {
	return flowtext.Actions(r.Actions, r.Match, l.names)
}

// json is the rules for programs. Numbers of 64 bits that are names are words.
func (d *dump) json() []object {
	out := []object{}
	for i := range d.rules {
		r := &d.rules[i]
		bridges := r.bridges
		if bridges == nil {
			bridges = []string{}
		}
		o := append(object{{"bridges", bridges}, {"own", r.own}}, d.ruleJSON(&r.rule)...)
		out = append(out, append(o, field{"n_packets", r.packets}, field{"n_bytes", r.bytes}))
	}
	return out
}

func (l *listing) ruleJSON(r *flowtable.Rule) object {
	return object{
		{"id", hex64(uint64(r.ID))}, {"datapath", hex64(r.Datapath)}, {"group", r.Group}, {"table", r.Table}, {"priority", r.Priority},
		{"match", l.match(r)}, {"actions", l.actions(r)}, {"cookie", hex64(r.Cookie)},
	}
}

func hex64(n uint64) string { return fmt.Sprintf("%016x", n) }
