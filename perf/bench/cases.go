package main

import (
	"millrace/perf/pktgen"
	"millrace/perf/ruleset"
)

// turnsApart keeps the new flows of one turn apart from those of the next.
const turnsApart = 1 << 26

// attackPPS is the rate of the attack: 10 Mbit/s of frames of 60 bytes, ten
// times what Csikor et al. (CoNEXT 2019) needed.
const attackPPS = 20_000

// mixed is the pipeline of the case rules.
func mixed() ruleset.Mixed {
	return ruleset.Mixed{Rules: 10_000, Masks: 40, Tables: 5, Flows: 100_000, In: "p0", Out: "p1"}
}

// flowCases are the cases of the flow table.
func flowCases() []scenario {
	cases := []scenario{manyFlows("flows-1k", 1024), manyFlows("flows-64k", 65536), manyFlows("flows-1m", 1_000_000), {
		Name: "rules", About: "10,000 rules with 40 masks in 5 tables, 100,000 flows, Zipf 1.1", Flows: 100_000, ring: 1024, tunings: pipelineTunings(),
		rules:   func() ruleset.Set { return mixed().Set() },
		warm:    func() []pktgen.Traffic { return []pktgen.Traffic{{Headers: mixed().Headers(), Shuffle: true}} },
		traffic: func(int) []pktgen.Traffic { return []pktgen.Traffic{{Headers: mixed().Headers(), Zipf: 1.1}} },
		metrics: []metric{{Key: keyBusy, Title: "share of the core's time with packets", Format: "%.2f"}, {Key: keyWalks, Title: "flows set up, million a second", Format: "%.3f"}, {Key: keyMasks, Title: "masks in the cache", Format: "%.0f"}},
	}, {
		Name: "newflows", About: "each frame a new flow, 5 tables with 32,771 rules", Flows: 1, ring: 4096, tunings: newFlowTunings(),
		rules: func() ruleset.Set { return ruleset.Clients("p0", "p1") },
		traffic: func(turn int) []pktgen.Traffic {
			return []pktgen.Traffic{{Fresh: true, First: uint32(turn) * turnsApart}}
		},
		metrics: []metric{
			{Key: keyWalks, Title: "flows set up, million a second", Format: "%.3f"},
			{Key: keyBusy, Title: "share of the core's time with packets", Format: "%.2f"},
		},
	}, {
		Name: "tse", About: "1,024 flows of a victim while another port sends 20,000 frames/s made to need a mask each", Flows: 1024, ports: 4,
		rules: func() ruleset.Set { return ruleset.Guarded("p0", "p1", "p2", "p3") }, turn: turnAttack,
		metrics: []metric{
			{Key: keyBase, Title: "victim without attack, Mpps", Format: "%.2f"},
			{Key: keyAttacked, Title: "victim under attack, Mpps", Format: "%.3f"},
			{Key: keyKept, Title: "share that the victim keeps", Format: "%.3f", readme: true},
			{Key: keyMasks, Title: "masks in the cache", Format: "%.0f"},
		},
	}}
	cases = append(cases, changeCases()...)
	for i := range cases {
		cases[i].Sizes, cases[i].Group = small(), flowsGroup
	}
	return cases
}

// manyFlows is a case of n flows in an order without order.
func manyFlows(name string, n int) scenario {
	return scenario{
		Name: name, About: grouped(n) + " flows, shuffled; rules for address and port of the destination", Flows: n, tunings: cacheTunings(),
		rules:   func() ruleset.Set { return ruleset.L4("p0", "p1") },
		traffic: func(int) []pktgen.Traffic { return []pktgen.Traffic{{Flows: n, Shuffle: true}} },
	}
}

// gateRules are the rules beside that which is changed.
const gateRules = 1000

func changeCases() []scenario {
	gate := func() ruleset.Set { return ruleset.Gate("p0", "p1", "p3", gateRules) }
	cases := []scenario{{
		Name: "change-one", About: "one rule changed again and again under load", turn: turnFlip, rules: gate,
		metrics: []metric{
			{Key: "offered_mpps", Title: "frames offered, Mpps", Format: "%.1f"},
			{Key: "new_p50_us", Title: "from the call to the first frame by the new rule, median, us", Format: "%.0f"},
			{Key: "new_p99_us", Title: "from the call to the first frame by the new rule, 99 of 100, us", Format: "%.0f", readme: true},
			{Key: "new_max_us", Title: "from the call to the first frame by the new rule, longest of all, us", Format: "%.0f", worst: true},
			{Key: "old_p99_us", Title: "from the call to the last frame by the old rule, 99 of 100, us", Format: "%.0f"},
			{Key: "call_p50_us", Title: "until the call returns, median, us", Format: "%.0f"},
			{Key: "call_p99_us", Title: "until the call returns, 99 of 100, us", Format: "%.0f"},
			{Key: "disturbed", Title: "changes that were made again, since others had the CPU", Format: "%.0f"},
			{Key: "db_new_p50_us", Title: "by the database: to the first frame by the new rule, median, us", Format: "%.0f"},
			{Key: "db_new_p99_us", Title: "by the database: to the first frame by the new rule, 99 of 100, us", Format: "%.0f"},
		},
	}, {
		Name: "change-many", About: "1,000 changes a second of rules that no frame needs, under a flood", turn: turnChurn, rules: gate,
		metrics: []metric{
			{Key: keyBase, Title: "without changes (ours: with changes to an idle switch beside it), Mpps", Format: "%.2f"},
			{Key: "churned", Title: "with changes, Mpps", Format: "%.2f"},
			{Key: "changes", Title: "changes a second", Format: "%.0f"},
			{Key: "base_cycles", Title: "cycles per frame without", Format: "%.1f"},
			{Key: "churned_cycles", Title: "cycles per frame with", Format: "%.1f"},
			{Key: keyKept, Title: "throughput of the core that is left (by cycles)", Format: "%.3f", readme: true},
		},
	}, {
		Name: "change-bulk", About: "10,000 rules replaced in one transaction under load", turn: turnBulk,
		rules: func() ruleset.Set { return generation(0) },
		metrics: []metric{
			{Key: "api_ms", Title: "by the dataplane's API: from the call to the first frame by new rules, ms", Format: "%.1f", readme: true},
			{Key: "commit_ms", Title: "by the database: from its answer to the first frame by new rules, ms", Format: "%.1f", readme: true},
			{Key: "db_ms", Title: "by the database: from the call to the first frame by new rules, ms", Format: "%.1f"},
			{Key: "tool_ms", Title: "by the command line: from the start of the program to the first frame by new rules, ms", Format: "%.0f"},
			{Key: "astray", Title: "frames that met rules old and new, at most in a turn", Format: "%.0f", worst: true, readme: true},
			{Key: "overlap_us", Title: "time in which some frames went by new rules and later ones by old rules, us, at most", Format: "%.0f", worst: true, readme: true},
			{Key: "lost", Title: "frames lost, at most", Format: "%.0f", worst: true},
		},
	}, {
		Name: "change-load", About: "100,000 rules at start", turn: turnLoad,
		rules: func() ruleset.Set { return ruleset.Set{} },
		metrics: []metric{
			{Key: "load_s", Title: "from the start to the first frame by the rules, s", Format: "%.2f", readme: true},
			{Key: "ready_s", Title: "until the switch says that it is ready, s", Format: "%.2f"},
			{Key: "begin_s", Title: "until some rules are in force, s", Format: "%.2f"},
			{Key: "all_s", Title: "until all rules are in force, s", Format: "%.2f"},
		},
	}}
	for i := range cases {
		cases[i].ports, cases[i].Flows, cases[i].bare = 4, 1024, true
	}
	return cases
}

// Flows of change-bulk: each has a rule in two tables.
const bulkFlows = 5000

// generation returns 10,000 rules that lead to p1 if n is even and to p3 if not,
// and what is caught between two of them to p2.
func generation(n int) ruleset.Set {
	return ruleset.Generation(uint32(n+1), bulkFlows, "p0", [2]string{"p1", "p3"}[n%2], "p2")
}

// attack is the attacker's headers: more than it sends in a turn.
func attack() []pktgen.Header { return ruleset.Attack(32) }
