// Package afxdp is the port of a network device: a NIC, or the host's end of a
// veth. Frames come and go by AF_XDP sockets, one for each queue of the device;
// an XDP program of our own (bpf/steer.c) decides which frames the port gets and
// which the kernel keeps.
//
// # The way of a frame
//
//	device ─▶ driver or stack ─▶ XDP program ─▶ socket ─▶ receive ring ─▶ RxQueue.Rx
//	                                 └▶ kernel              128 bytes copied, the rest borrowed
//
//	TxQueue.Tx ─▶ a chunk of the socket ─▶ Commit: transmit ring ─▶ Signal: sendto ─▶ device
//	 one copy
//
// # Who owns a chunk
//
// A socket's memory (umem) is chunks of one size. The first of them are for
// receiving and go round like this:
//
//	fill ring ─▶ kernel ─▶ receive ring ─▶ on loan to a batch ─▶ fill ring
//	 (receiver.stock, give)      (receiver.receive)           (receiver.give)
//
// The others are for sending:
//
//	free ─▶ taken (sender.send) ─▶ transmit ring (commit) ─▶ kernel ─▶ completion ring ─▶ free
//	                  └ abort ▶ free                                       (reclaim)
//
// None changes sides, so the two halves of a socket share nothing: the receiver
// is one worker's, the sender is locked by a worker from Tx to Commit. The fill
// ring and the completion ring have room for all chunks, so they are never full.
// What the kernel writes into rings is judged where it is read (umem.received,
// umem.sending); nonsense ends the session, and the device is taken anew.
//
// # Who does what
//
//	Port       holds a session to what its device is (follow, settle): one goroutine
//	Watcher    tells ports that something has happened to devices (netlink), one for all
//	session    one hold on a device: how it was chosen, the program, the sockets
//	program    the XDP program and its maps; attached as a BPF link
//	socket     one queue: memory, rings, and what the kernel has dropped
//	receiver   the receiving half, for one worker: RxQueue
//	sender     the sending half, for a worker at a time: TxQueue chooses and locks
//
// Workers reach sockets by atomic pointers, which only the port's goroutine
// writes; what was reachable is closed after Options.Quiesce has returned.
//
// # What is not said by the frame
//
// A frame in a socket is bytes, nothing more. What a veth's other end has left to
// its device is made up for, or switched off: checksums are finished
// (checksum.go), tags that are kept beside the frame are put back (steer_tagged
// in bpf/steer.c), and in generic mode offloads are switched off (offload.go).
//
// # Nothing stays behind
//
// The program is attached by a BPF link, which goes with the process however it
// ends. A device that has somebody else's program is left alone (ErrForeign).
package afxdp
