package peers

import (
	"maps"
	"testing"
)

// dumpOutput is what Open vSwitch 3.1 prints.
const dumpOutput = `tcp,orig=(src=10.0.0.1,dst=172.16.0.1,sport=1024,dport=80),reply=(src=172.16.0.1,dst=10.0.0.1,sport=80,dport=1024),zone=7,protoinfo=(state=ESTABLISHED)
tcp,orig=(src=10.0.0.2,dst=172.16.0.1,sport=1024,dport=80),reply=(src=172.16.0.1,dst=10.0.0.2,sport=80,dport=1024),zone=7,protoinfo=(state=TIME_WAIT)
tcp,orig=(src=10.0.0.3,dst=172.16.0.1,sport=1024,dport=80),reply=(src=172.16.0.1,dst=10.0.0.3,sport=80,dport=1024),zone=7,mark=2,protoinfo=(state=ESTABLISHED)
udp,orig=(src=10.0.0.3,dst=172.16.0.1,sport=1024,dport=80),reply=(src=172.16.0.1,dst=10.0.0.3,sport=80,dport=1024),zone=8
`

// TestParseConnections counts them by protocol and state.
func TestParseConnections(t *testing.T) {
	want := map[string]int{"tcp ESTABLISHED": 2, "tcp TIME_WAIT": 1, "udp": 1}
	if got := parseConnections(dumpOutput + "2026-01-01T00:00:00Z|1|a message\n"); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
