// Package tap is the port whose peer is the Linux kernel: a TAP device, in the
// switch's network namespace or in another one, for pods without DPDK and for the
// host itself.
//
// # Who does what
//
//	Port      the device: makes it, follows it, makes it anew when it is gone
//	device    what the kernel has: descriptors, name, namespace, settings
//	Kernel    what all ports of a process share:
//	  lookout   which of the idle queues have frames, by one system call for all
//	  watcher   what becomes of devices, from netlink
//	RxQueue   frames that the kernel sends, by one queue of the device
//	TxQueue   frames that the kernel receives, for all workers
//
// # The way of a frame
//
// From the kernel, readv puts a frame's first bytes straight into the private
// memory of the batch and the rest into memory of the queue, outside the Go heap,
// which stays as it is until the queue is read again. To the kernel, Tx notes
// what to send and Commit sends it with writev: decision 0001 wants the source
// completed in between. What the source takes back then was copied by
// packet.Batch.Keep; what came from another TAP was not. So all memory that the
// kernel reads is ours, and a guest that takes its memory away faults in Keep,
// where a worker knows what to do.
//
// Every frame has a virtio-net header of 12 bytes before it (virtio 5.1.6), in
// both directions. By it the kernel leaves checksums and segments of TCP to us, and takes
// super-frames of 64 KiB with one write (TUNSETOFFLOAD, decision 0033).
//
// # Cost of idleness
//
// A read that finds nothing takes 0.4 microseconds, and a worker that polls would
// do one a turn for each port. So a queue that was found empty is not read again
// until the lookout has seen frames: an epoll instance with the queues of all
// ports, which is asked every lookEvery by whichever worker comes by. A worker
// that sleeps waits for the queues' own descriptors.
//
// # Following the device
//
// Anybody may rename the device, move it, change it, take it down or delete it.
// Netlink tells that something happened, and no more is believed: the port then
// asks what there is. It finds the device by its descriptor, which names it
// wherever it is. A device that is gone is made anew as it was. The port holds
// neither a descriptor of another namespace nor a socket in it: one that is
// deleted is gone, with the device, and the port waits until it is back.
//
// The device is not persistent unless that is asked for: it goes with the last
// descriptor, also when the process is killed.
//
// The package imports nothing of the dataplane but frames and system calls;
// Options has all that it asks for.
package tap
