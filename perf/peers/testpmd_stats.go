package peers

import (
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// PortStats are the counters of one device ("show port stats"). Fields carry
// testpmd's own names.
type PortStats struct {
	Port      int
	RxPackets uint64 `testpmd:"RX-packets"`
	RxMissed  uint64 `testpmd:"RX-missed"`
	RxBytes   uint64 `testpmd:"RX-bytes"`
	RxErrors  uint64 `testpmd:"RX-errors"`
	RxNoMbuf  uint64 `testpmd:"RX-nombuf"`
	TxPackets uint64 `testpmd:"TX-packets"`
	TxErrors  uint64 `testpmd:"TX-errors"`
	TxBytes   uint64 `testpmd:"TX-bytes"`
	RxPPS     uint64 `testpmd:"Rx-pps"` // since the last time they were shown
	TxPPS     uint64 `testpmd:"Tx-pps"`
}

// ForwardStats are what the forwarding threads did with one port ("stop").
// TxDropped are frames that a full ring did not take: they were never sent.
type ForwardStats struct {
	Port      int
	RxPackets uint64 `testpmd:"RX-packets"`
	RxDropped uint64 `testpmd:"RX-dropped"`
	RxTotal   uint64 `testpmd:"RX-total"`
	TxPackets uint64 `testpmd:"TX-packets"`
	TxDropped uint64 `testpmd:"TX-dropped"`
	TxTotal   uint64 `testpmd:"TX-total"`
}

var (
	portHeader    = regexp.MustCompile(`NIC statistics for port (\d+)`)
	forwardHeader = regexp.MustCompile(`Forward statistics for port (\d+)`)
	accumulated   = regexp.MustCompile(`Accumulated forward statistics`)
	counter       = regexp.MustCompile(`([RT][Xx]-[a-z]+):\s*(\d+)`)
)

// parsePortStats reads the output of show port stats all.
func parsePortStats(out string) []PortStats {
	var all []PortStats
	sections(out, portHeader, func(port int, body string) {
		s := PortStats{Port: port}
		readCounters(body, &s)
		all = append(all, s)
	})
	return all
}

// parseForwardStats reads the output of stop, without the sums over all ports.
func parseForwardStats(out string) []ForwardStats {
	if at := accumulated.FindStringIndex(out); at != nil {
		out = out[:at[0]]
	}
	var all []ForwardStats
	sections(out, forwardHeader, func(port int, body string) {
		s := ForwardStats{Port: port}
		readCounters(body, &s)
		all = append(all, s)
	})
	return all
}

// sections calls f for each part of out that begins with header, whose group
// is a port number.
func sections(out string, header *regexp.Regexp, f func(port int, body string)) {
	heads := header.FindAllStringSubmatchIndex(out, -1)
	for i, h := range heads {
		end := len(out)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		if port, err := strconv.Atoi(out[h[2]:h[3]]); err == nil {
			f(port, out[h[1]:end])
		}
	}
}

// readCounters sets the fields of the struct at into whose tag names a counter in body.
func readCounters(body string, into any) {
	values := map[string]uint64{}
	for _, m := range counter.FindAllStringSubmatch(body, -1) {
		if n, err := strconv.ParseUint(m[2], 10, 64); err == nil {
			values[strings.TrimSpace(m[1])] = n
		}
	}
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("testpmd"); name != "" {
			v.Field(i).SetUint(values[name])
		}
	}
}
