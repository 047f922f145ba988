package supervise

import (
	"testing"
	"time"
)

// TestGrace: who ends has as long as its Spec of now says, not that of its start.
func TestGrace(t *testing.T) {
	c := &child{Spec: Spec{Name: "egress eg0", Grace: 35 * time.Second}, at: -1}
	s := &supervisor{children: []*child{c}, more: []Spec{{Name: "egress eg0", Grace: 10 * time.Minute}}}
	s.follow()
	if len(s.children) != 1 || s.children[0] != c || c.unwanted || c.Grace != 10*time.Minute {
		t.Errorf("%d processes; the first has %v to end", len(s.children), c.Grace)
	}
}
