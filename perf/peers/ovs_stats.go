package peers

import (
	"regexp"
	"strconv"
	"strings"
)

// PMDStats are the counters of one poll-mode thread since the last
// PMDStatsClear (ovs-vswitchd(8), dpif-netdev/pmd-stats-show). Cycles are TSC
// cycles.
type PMDStats struct {
	Core             int
	Packets          uint64
	Recirculations   uint64
	SimpleMatchHits  uint64
	EMCHits          uint64
	SMCHits          uint64
	MegaflowHits     uint64
	Misses           uint64  // with an upcall that succeeded
	FailedMisses     uint64  // with an upcall that did not
	PacketsPerBatch  float64 // sent
	IdleCycles       uint64  // of turns that found no packet
	ProcessingCycles uint64  // of turns that found some
}

// CyclesPerPacket is all cycles over all packets: the figure that OVS prints
// as "avg cycles per packet". It is 0 when there was no packet.
func (s PMDStats) CyclesPerPacket() float64 { return s.per(s.IdleCycles + s.ProcessingCycles) }

// ProcessingCyclesPerPacket leaves out the idle turns ("avg processing cycles
// per packet"): what a packet costs below saturation.
func (s PMDStats) ProcessingCyclesPerPacket() float64 { return s.per(s.ProcessingCycles) }

// per divides cycles by the packets.
func (s PMDStats) per(cycles uint64) float64 {
	if s.Packets == 0 {
		return 0
	}
	return float64(cycles) / float64(s.Packets)
}

var (
	pmdHeader = regexp.MustCompile(`^pmd thread numa_id \d+ core_id (\d+):`)
	pmdLine   = regexp.MustCompile(`^\s+([^:]+): ([0-9.]+)`)
)

// parsePMDStats reads the output of dpif-netdev/pmd-stats-show, without the
// main thread.
func parsePMDStats(out string) []PMDStats {
	var all []PMDStats
	inThread := false
	for line := range strings.Lines(out) {
		switch head, value := pmdHeader.FindStringSubmatch(line), pmdLine.FindStringSubmatch(line); {
		case head != nil:
			core, _ := strconv.Atoi(head[1]) // digits, by the pattern
			all = append(all, PMDStats{Core: core})
			inThread = true
		case value == nil:
			inThread = false
		case inThread:
			all[len(all)-1].set(value[1], value[2])
		}
	}
	return all
}

// set takes one counter by the name that OVS prints.
func (s *PMDStats) set(name, value string) {
	n, _ := strconv.ParseUint(value, 10, 64) // 0 for a fraction, which only PacketsPerBatch is
	switch name {
	case "packets received":
		s.Packets = n
	case "packet recirculations":
		s.Recirculations = n
	case "simple match hits":
		s.SimpleMatchHits = n
	case "emc hits":
		s.EMCHits = n
	case "smc hits":
		s.SMCHits = n
	case "megaflow hits":
		s.MegaflowHits = n
	case "miss with success upcall":
		s.Misses = n
	case "miss with failed upcall":
		s.FailedMisses = n
	case "avg. packets per output batch":
		s.PacketsPerBatch, _ = strconv.ParseFloat(value, 64)
	case "idle cycles":
		s.IdleCycles = n
	case "processing cycles":
		s.ProcessingCycles = n
	}
}
