// Package flowtable decides what becomes of packets: tables of prioritised
// rules, a walk through them, and the program that the walk composes. It knows
// neither ports nor frames nor processes, and imports nothing of ours but prefetch.
//
// # The way of a packet
//
//	frame --parse--> Key --Cache.Lookup--> Program           a hit: nothing else is done
//	                  | miss
//	                  v
//	              Context --Walker.Walk--> Composed --Cache.Install--> Program
//	                        rules, sets, groups, meters, side tables
//
// A Key is what the wire says, and the port that it came by: KeyWords words of
// 64 bits. A Context is a Key with what the pipeline adds: the logical
// datapath, logical ports, registers, flags, connection state. All metadata is
// zero when a packet arrives but for what its port's Entry says, so the
// Key alone determines what a walk does. That is why one lookup can stand for
// a walk of seventy tables.
//
// # Rules
//
// A [Rule] is in one table, for one datapath or a [Group] of them (stored once),
// with a priority, masked words to match, residual predicates (set membership,
// ranges, !=) and actions. Sets stay sets: a rule over a set of a thousand
// addresses is one rule. Rule ids are digests of content, so the same rule has
// the same id in each life of control.
//
// # Versions
//
// Rules, set members, groups and meters carry the version in which they came
// and that in which they went. One writer prepares a transaction ([Txn]) beside what is
// in force, and puts it in force by one store of the version. A walk reads the
// version once, so no packet sees half of a transaction. What went is unlinked
// when no walker uses a version in which it was there, and freed when each has
// been quiet ([Walker.Quiet], once a turn) since.
//
// When memory runs out, a call is refused and leaves no trace, and a commit that
// fails undoes all of its transaction. Chunks for notes are set aside before
// anything is changed, and a part of the memory is kept for them, so that full
// tables can be emptied.
//
// # Lookup
//
// The rules of a table of a datapath, or of a group, are a rule set: hash tables
// ("subtables"), one for each mask that rules have, in the order of their highest
// priority. Each hash has a filter, so that most probes in vain read one word. A
// lookup goes through the rule set of the datapath and those of its groups, and
// stops when no rule that is left can have a higher priority than what was found. Of rules of equal priority, the one with the lowest id wins. A
// subtable first looks at the bits that say what kind of packet it is; no rule has
// them: the rest of its mask is neither looked up nor consulted.
//
// Rules with a predicate InSet are found by the set: the lookup asks in which
// sets the value is, and looks for the rules of each. So thousands of rules that
// differ only in their port groups cost as many probes as the packet's port is in
// groups. The rest of the predicates are evaluated rule by rule, the highest
// priority first; where many rules of one key have ranges of one field, only
// those near the value are (ranges.go).
//
// All of it is in arenas: flat memory outside the Go heap, with block numbers for
// pointers.
//
// # Consulted bits
//
// A walk notes each bit of the Key on which anything depended: masks of all
// subtables that were probed, words that predicates looked at, sources of moves
// and hashes. Bits that the pipeline itself has set before they are looked at
// do not count. The composed program is right for every packet that agrees in
// the consulted bits: the invariant that the differential tests are about. Masks are
// unions of masks of whole subtables, or of their first stages, never of single
// bits of a trie, so that a packet cannot choose among many masks (tuple-space
// explosion).
//
// A frame's length is not in the Key. A walk that meets ActLarger makes a program
// for frames of Composed.LenMin..LenMax bytes: who keeps it checks that.
//
// # Connections
//
// ActCT asks connection tracking, a side table, about the packet as the pipeline has
// made it so far. The answer says what it depends on, which is consulted, and
// has a guard; what translation changes is written to the context like
// anything else. So all zones that a walk comes through are in one program, with one
// OpSet for each word, and a packet of an established connection is one lookup and a
// look at as many guards. OpCT says for which connections a program counts. An answer
// that is for this packet only (the first of a connection, an ICMP error) makes a
// program that is not kept.
//
// # Replies
//
// ActReply makes the packet in hand one that answers it, on a copy: OpReply does so to the frame, from
// its bytes, and takes a token of a meter. The walk knows what the key of the reply will be, for it consults
// what that is made of; so what is nested is walked as ever, and the program is cached. A reply that comes to a zone
// takes its token at once, in the walk, which is not kept: connections hear only of what is sent.
//
// # Caches
//
// Each worker has its own, in mapped memory. Narrow entries are one cache line:
// six words of key and what it leads to; wide ones (IPv6, ND, full ARP) two. An
// entry lies where the seeded hash of its masked key says, in one of two
// buckets: a lookup reads at most two lines for each mask that it probes. A
// port probes the exact mask and at most MasksMax wildcard masks, those with
// most hits first. When a walk would add a mask beyond the bound, its program
// goes into the exact cache only. An exact entry is made when a flow is seen
// the second time, so a flood of new flows does not wash out old ones.
//
// # Guards
//
// A program is right as long as its guards hold: 32-bit cells that must have
// the value that they had before the walk read the tables. Cells stand for paths,
// for entries of the FDB, and for connections.
//
// A path is a set of regions: the rule sets that a walk came through, and the
// lists of them that its datapaths have. Each path has a cell for
// changes that concern all its programs, and cells over which its programs are
// spread by bits that most of its rules match on and none writes. A transaction
// moves the cells of the paths of the regions that it touches; a rule that says what all
// these bits are moves one of the spread cells only. A program whose guard fails
// is compared with the latest changes ([Walker.StillGood]) on bits that no rule of
// the path writes, and walked again only if one of them may concern it. A walk
// beside which a transaction took effect is not kept (Composed.Cacheable).
package flowtable
