// Package logical is the front end of OVN's logical flow language: the matches
// and actions of Logical_Flow rows in an OVN southbound database, and of Flow
// rows in ours. It knows no switch, database or process: text goes in, rules
// come out. The reference is OVN 25.03 (ovn-sb(5), Logical_Flow table), with the
// symbols and verbs that versions from 23.03 to main add.
//
//	text ──Expand──▶ text ──ParseMatch────▶ Expr ─────────┐
//	                  └────ParseActions──▶ Actions        │
//	                                       .Prereq ───────┴─Compile─▶ []Clause ──Resolve──▶ []Clause
//
// What each step depends on decides how long its result may be kept:
//
//	Expand    template variables of this chassis
//	Parse     nothing: the same text has the same tree everywhere
//	Compile   nothing
//	Resolve   a datapath's ports, and where ports reside; not the members of sets
//
// Refer names what Resolve looks up, so that a change of it costs work for its
// users only. Bridges outside OVN differ only in the Resolver that they give.
//
// # Matches
//
//	match    = operand { "&&" operand } | operand { "||" operand }
//	operand  = "!" primary | primary
//	primary  = "(" match ")"
//	         | field relop constants
//	         | constants relop field [ relop constants ]
//	         | field
//	         | "0" | "1"
//	         | "is_chassis_resident" "(" string ")"
//	relop    = "==" | "!=" | "<" | "<=" | ">" | ">="
//	field    = name [ "[" int [ ".." int ] "]" ]
//	constants= constant | "{" constant { [ "," ] constant } "}"
//	constant = string | number [ "/" number ] | "$" name | "@" name
//	number   = decimal | "0x" hex | IPv4 | IPv6 | Ethernet
//
// && and || don't mix without parentheses. The operand of ! is in parentheses,
// or a field alone, or is_chassis_resident. A field alone is a bit that is set;
// under ! it may be wider: it is zero. The two operators of a range point the
// same way. Comments are // to the end of the line, and /* */ within one.
//
// A Symbol is a field, some bits of one, or a predicate that stands for an
// expression. Its Level says what it may be compared with (see Nominal, Boolean,
// Ordinal); its prerequisites say which packets have it. A comparison holds only
// where the prerequisites of its symbol do, whether it is negated or not; a
// predicate is negated with its own. Numbers are Values of up to 128 bits.
//
// Trees are canonical: ! is gone, && in && and || in || are flat, and a test of
// one bit has one form. Print gives a text that parses to an equal tree.
//
// One thing differs from OVN: there, != with an address set that is empty holds
// for every packet; here the prerequisites still count, as they do once the set
// has a member. Texts that ovn-trace accepts and we don't: constants that don't
// fit the bits they are compared with, lengths over 65535 in check_pkt_larger,
// empty lists of backends, assignments to icmp4.frag_mtu and its like outside of
// ICMP blocks, and ct_commit with arguments in parentheses, as before OVN 20.09.
//
// # Clauses
//
// A match becomes clauses, of which at least one holds exactly where the match
// does. A Clause is a list of masked words, at most one for each Field, for a
// flow table to look up, and of Predicates for what is not a masked word:
// membership in a set, ranges, residence, and their opposites. Sets are never
// expanded: three sets of a thousand members are three predicates of one clause.
// Options.SplitSets makes clauses of small constant sets, such as the two
// Ethernet types of "ip", so that they are looked up, too.
//
// Alternatives multiply when || stands in &&. Options.MaxClauses bounds the
// clauses and the work; a match beyond it is refused with ErrTooComplex. Clauses
// that contradict themselves are not made, and what a clause's words decide is
// not in its predicates.
//
// # Actions
//
//	actions  = "drop" ";" | { action ";" }
//	action   = field "=" ( constant | field | verb "(" arguments ")" )
//	         | field "<->" field
//	         | verb [ "(" arguments ")" ]
//	         | verb "{" actions "}"
//	         | "ip.ttl" "--"
//
// OVN's verbs, and two of ours, meter("name") and group("name"), which name rows of
// the Millrace database.
//
// Each verb is a node of its own type or shares one with its like (Action has
// the list); its arguments are checked for type, width, range and whether they
// can be written where they stand. Nothing is executed here, and tables of next
// are not checked against a pipeline. Actions.Prereq is compiled along with the
// match: a rule that changes ip4.src matches IPv4 only.
//
// # Errors and limits
//
// A text that is not in the language gives an *Error with the column, counted in
// bytes from 1, and what was expected there. Texts come from users (ACLs are
// copied into flows unseen), so everything is bounded: 100 nested parentheses,
// 32 nested blocks, work linear in the text to parse it and bounded by Options
// to compile it.
//
// # Cost
//
// A row of the corpus in testdata takes some 2 microseconds at the median, 5 in
// the mean, from text to clauses and actions, with 17 allocations. Symbols is
// immutable and shared; a Compiler keeps scratch memory and belongs to one
// goroutine. Clauses of one Compiler share chunks of memory: copy what is kept
// for long.
package logical
