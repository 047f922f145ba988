// Package ruleset has the rules that switches are measured with, and says them
// in two languages: OpenFlow as ovs-ofctl(8) reads it, and that of millrace's
// flows. What a Set means is defined by Decide, which looks at one rule after
// the other; each language says the same.
//
// All sets are made from a seed: the same rules each time, on every machine.
package ruleset
