package main

import "fmt"

// A tuning is a way to configure OVS.
type tuning struct {
	Name    string
	config  map[string]string // of Open_vSwitch.other_config
	settled map[string]string // the same, once all flows were shown
	noTries bool              // addresses are looked up without tries, so that megaflows have few masks
}

// A tried is what a tuning gave in a turn before the pairs.
type tried struct {
	Tuning string  `json:"tuning"`
	Mpps   float64 `json:"mpps"`
}

// caches is a tuning of the two caches before megaflows: the exact match cache
// with one of so many flows inserted (0: none), and the signature match cache.
func caches(name string, inverse int, smc bool) tuning {
	return tuning{Name: name, config: map[string]string{"emc-insert-inv-prob": fmt.Sprint(inverse), "smc-enable": fmt.Sprint(smc)}}
}

// cacheTunings are the ways to use the caches that OVS's guide names.
func cacheTunings() []tuning {
	return []tuning{
		caches("EMC", 100, false), caches("EMC, every flow inserted", 1, false),
		caches("EMC and SMC", 100, true), caches("SMC", 0, true), caches("neither EMC nor SMC", 0, false),
	}
}

// pipelineTunings are for 100,000 flows that last. The number of megaflows that
// OVS allows itself grows by 1,000 with each sweep, so sweeps come often at
// first. Later they are rare, and nothing is swept out: turns of the other side
// are idle time.
func pipelineTunings() []tuning {
	var ts []tuning
	for _, noTries := range []bool{false, true} {
		for _, t := range []tuning{caches("EMC and SMC", 100, true), caches("SMC", 0, true)} {
			if t.noTries = noTries; noTries {
				t.Name += ", no prefix tries"
			}
			t.config["max-idle"], t.config["max-revalidator"] = "600000", "100"
			t.settled = map[string]string{"max-revalidator": "10000"}
			ts = append(ts, t)
		}
	}
	return ts
}

// newFlowTunings are for flows that are seen once: caches do not help, and how
// many megaflows there may be decides how much is installed and swept.
func newFlowTunings() []tuning {
	sweep := func(limit, idle int) tuning {
		t := caches(fmt.Sprintf("flow-limit %s, max-idle %s ms", grouped(limit), grouped(idle)), 0, false)
		t.config["flow-limit"], t.config["max-idle"] = fmt.Sprint(limit), fmt.Sprint(idle)
		return t
	}
	return []tuning{sweep(200_000, 10_000), sweep(1_000_000, 10_000), sweep(200_000, 500), sweep(20_000, 500), sweep(1000, 500)}
}

// grouped writes a number with commas.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return grouped(n/1000) + fmt.Sprintf(",%03d", n%1000)
}
