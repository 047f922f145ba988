// Package flowtext writes what the flow table has for people: words to match,
// predicates, actions and programs, in the words of OVN's logical flow language.
//
// Rules are compiled: what the language calls tcp.dst is some bits of a word to the
// table. Which name they get depends on what packets the rule is for, so matches
// are written as a whole. What a name implies is left out: ip4.dst == 10.0.0.1 is
// for IPv4 only, and does not need to say so. The text parses back to the same
// rule where the language has words for it; what it has none for looks alike:
//
//	in_port == "vm1"           port that the frame came by
//	tp.dst == 80               port of any protocol
//	$5, @5                     set 5, of values or of ports
//	output("vm1")              to a port that the rule names
//	flood(1), meter(5)         flood list, meter
//	select(6)                  a bucket of group 6
//	drop(3)                    drop, for a reason
package flowtext
