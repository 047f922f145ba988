package bridge

import "time"

// A Balance says when receive queues are dealt to the workers anew by their loads, by
// the keys of Open_vSwitch.other_config that Open vSwitch has for it.
type Balance struct {
	On       bool          // pmd-auto-lb
	Interval time.Duration // pmd-auto-lb-rebal-interval: between two looks
	Load     int           // pmd-auto-lb-load-threshold: percent that some worker must be busy
	Improve  int           // pmd-auto-lb-improvement-threshold: percent by which the variance of loads must fall
}

// balanceIntervalMax is the longest interval in minutes, as in
// ovs-vswitchd.conf.db(5).
const balanceIntervalMax = 20000

// balance reads the keys. What is wrong has its default.
func (r *reader) balance(c map[string]string) Balance {
	take := func(key string, unset, most int) int {
		n, err := number(c, key, unset, 0, most)
		if err != nil {
			r.fault("Open_vSwitch", ".", "other_config", err)
		}
		return n
	}
	b := Balance{
		Interval: time.Duration(max(take("pmd-auto-lb-rebal-interval", 1, balanceIntervalMax), 1)) * time.Minute,
		Load:     take("pmd-auto-lb-load-threshold", 95, 100),
		Improve:  take("pmd-auto-lb-improvement-threshold", 25, 100),
	}
	switch s, ok := c["pmd-auto-lb"]; {
	case s == "true":
		b.On = true
	case ok && s != "false":
		r.fault("Open_vSwitch", ".", "other_config", bad("pmd-auto-lb=%q is neither true nor false", short(s)))
	}
	return b
}
