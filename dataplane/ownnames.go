package dataplane

import "millrace/flowtable"

// OwnID reports whether an id is one that the switch gives to rules of its own.
// Clients' rules must not have those: the switch could not make its own.
func (s *Switch) OwnID(id flowtable.RuleID) bool { return id>>32 == ownRuleID>>32 }

// OwnDatapaths returns the datapaths in which the switch has rules of its own,
// and the bridge that learns by them; wires have one without a bridge.
func (s *Switch) OwnDatapaths() map[uint64]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint64]string{wires: ""}
	for _, br := range s.bridges {
		out[br.datapath()] = br.name
	}
	return out
}
