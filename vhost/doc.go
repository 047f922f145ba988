// Package vhost is the vhost-user back-end port: a front-end (a virtual machine
// monitor, or a DPDK application) shares its memory and its rings over a socket,
// and the port offers them as queues that take and give batches of frames.
//
// # Who does what
//
//	Port      the socket: listens or connects, one peer at a time
//	Finder    tells ports that connect when there is a socket, for many ports
//	session   one connection: a goroutine that handles messages one by one
//	settle    brings the rings that run in line with what messages have said
//	RxQueue   the driver's transmit ring of one pair, for one worker
//	TxQueue   the driver's receive rings of all pairs, for all workers
//	guard     a goroutine that looks after signals that block, and cuts peers off
//
// # Invariants
//
// Workers reach a running ring by one atomic pointer, which they load once a
// call. Only the session changes it, and what was reachable is freed only after
// Options.Quiesce has returned: no worker is inside any more then. The transmit
// rings are behind a lock of one word besides, which a worker holds from Tx to
// Commit or Abort; the session takes it to exchange a ring without losing a
// frame.
//
// A message changes what is wanted (a vring's fields), never what runs: that is
// settle's, which compares the two. So no order of messages is special.
//
// # A peer that misbehaves
//
// Nonsense in a ring or in a message ends the connection, with a reason, and is
// counted; the peer recovers by connecting again. Rings are taken up where the
// used index in memory says, so that a front-end that kept its rings sees no
// frame twice. Nothing that a peer does reaches another port: memory that it
// takes away faults in a worker, which asks Owns and calls Break; a call
// eventfd that is full and blocks the worker that signals is drained by the
// guard. A port pauses after it has cut off a peer, so that one that comes again
// and again takes little of the workers' time.
//
// The package is usable without the rest: Options has all that it asks for.
package vhost
