// Package conntrack is the connection table that the workers of a dataplane
// share: connections in zones, their states, address translation, and what
// load balancers remember of clients. It knows tuples and TCP flags; frames, rules
// and programs are the business of who calls it.
//
// # The way of a packet
//
//	frame --Packet.Read--> Packet --Worker.Track--> Verdict           any packet that walks
//	                                  |  --Worker.Commit-->  Verdict  if the pipeline says commit
//	                                  v
//	                   Verdict.Translate(Packet)                      where the pipeline says NAT
//
// Track finds the connection in a zone and does to it what the packet does; a
// packet without one is new or invalid. Commit makes connections. Neither
// changes the frame: a Verdict has the Rewrite, the pipeline makes ops of it.
//
// Most packets do not come here. A walk folds its verdicts into a composed
// program, which is right for packets that agree in what Verdict.Uses names, for
// as long as the connection's guard cell has the value Verdict.Want. Such packets
// read the cell and nothing else; the program counts them, and Touch tells the
// connection about them once a second or so, and before the program is given up.
//
// # Guard cells
//
// A cell is a word of Options.Cells: one for each record (the cell's number is
// the record's), some thousands for what is not there. Whoever changes what a
// verdict says moves the cell afterwards, of a connection if any verdict on it was Cacheable (it is watched):
//
//   - the connection was seen in the other direction, or its TCP state changed;
//   - its mark or label was changed;
//   - it was removed, by expiry, eviction, a flush, Force, or the end of TCP;
//   - its time is over, and it is about to be removed;
//   - a connection was made: the cell that stood for its absence.
//
// Track reads the cell before it reads what the cell stands for. So a change
// between the two makes the program stale at once, never wrong.
//
// What a cell cannot show must be in the program's key. TCP: the flags in
// TCPFlags, so that SYN, FIN and RST miss a program made for data. ICMP queries:
// the identifier. What the key of the flow table has not (UsesUnkeyed) is never
// cacheable: fragments, ICMP errors, SCTP (its chunks), TCP if windows are checked.
//
// # Expiry
//
// A record's deadline lies in an array of its own, 16 to a cache line, so a sweep
// of a million connections reads 4 MiB. Expire takes a budget and goes on where it
// stopped, within a line if need be: a worker calls it with budgets so small that it can look at the clock
// between two removals. A connection whose time is over is marked dying and its cell moves; if
// a packet or a Touch comes within two seconds it lives on, else it goes. So
// nobody must write a timestamp for each packet, and a connection whose packets
// all went by unseen is not lost, however late its worker tells.
//
// # Memory
//
// All is mapped outside the Go heap, with record numbers for pointers. The
// capacity is fixed; the kernel provides what is touched, and records are used
// again before new ones are touched. A connection takes, in bytes:
//
//	192  record: three cache lines, the original direction's key and the status in the
//	     first, the reply's key and the label in the second, counters and windows in the third
//	 32  index: two slots of 8 bytes, and as many that are empty
//	  4  guard cell
//	  4  deadline
//	  4  place in the list of free records
//
// and the table some MiB for zones, fragments and affinities, which small ones
// hardly touch.
//
// # The index
//
// A bucket is a cache line of eight slots: half of the hash as tag, the record,
// the direction. A key has two buckets, and lies in the first, or if that was crowded in the one that was emptier;
// a bucket counts its keys that lie elsewhere. A
// lookup reads one line of buckets, seldom two, and with few exceptions those of one
// record. Hashes are seeded: nobody outside can aim at one bucket.
//
// # Who writes what
//
// Lookups take no lock and write nothing but counters, once a tick the
// deadline, and once that the connection is watched. The status word (state of the protocol, both directions seen, assured,
// dying, dead) is changed by compare and swap by anybody. Slots are written under
// the lock of the shard, of which there are 256; a record has two, taken in the
// order of their numbers; marks, labels, windows and tags under that of its
// original key. A zone's list and count are under the zone's lock, taken last.
//
// Two workers that create the same connection meet at the shard's lock: the second
// finds the first's, and has its verdict of that. Who removes a record first makes
// it dead by compare and swap: only one succeeds; then slots go, the generation
// rises, the cell moves. A dead record is not found.
//
// A removed record is used again when each worker has been quiet since
// (Worker.Quiet, once a turn), so keys need no atomics, and what Track returned
// stays true during the turn. A Ref has the generation: it can be kept for ever.
//
// # Pressure
//
// When fewer than an eighth of all records, or 4,096, are left, each new
// connection removes the oldest unassured of some that lie together. Assured
// are TCP connections whose handshake was completed, UDP exchanges of more than two
// seconds, SCTP associations. They are never evicted while they go on; those of TCP and SCTP that are about
// to end (a FIN, a RST, a SHUTDOWN was seen) are, if there is no other among the few. A flood of connections that
// nobody answers replaces its own: a proper one needs to live for a round trip
// only, while the table holds seconds of the flood.
//
// # Protocols
//
// The states and transitions of TCP and SCTP, the ports that are chosen, and the
// timeouts are Linux's, with these differences: a SYN after the end of a TCP
// connection always begins another; retransmissions and unacknowledged data do not
// shorten timeouts; SCTP's heartbeats with a wrong tag are invalid; checksums are not
// verified. Without Options.Windows any RST ends a connection.
//
// Fragments have the verdict of the first: its ports are remembered, and what comes
// before it waits in memory of a fixed size (Hold, Release).
package conntrack
