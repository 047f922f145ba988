package l3

// A Verdict is what becomes of a packet.
type Verdict uint8

// Verdicts. Those from Malformed on drop it, and say why.
const (
	Deliver     Verdict = iota // to the inner end
	Relay                      // to the peer that has its destination
	Own                        // it is for an address of this end
	Malformed                  // no packet, or one that nobody may forward
	Denied                     // no rule lets it through
	Unsolicited                // it belongs to no flow that the other side began
	NoRoute                    // nobody here has its destination
	TooBig                     // for the tunnel; its sender is told
	Absent                     // its peer has not been heard of lately
	verdicts
)

var verdictNames = [verdicts]string{"deliver", "relay", "own", "malformed", "denied", "unsolicited", "no_route", "too_big", "absent"}

// String is a word, a label of metrics.
func (v Verdict) String() string { return verdictNames[v] }

// A Filter decides about packets, a batch at a time. Its methods are called by
// many goroutines at once.
type Filter interface {
	// Inward judges packets that peers have sent. Their source is an address of
	// the peer that sent them: WireGuard has seen to that.
	Inward(packets [][]byte, verdicts []Verdict)
	// Outward judges packets of the inner end that are for peers: Relay, or why not.
	Outward(packets [][]byte, verdicts []Verdict)
}
