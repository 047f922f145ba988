// Package netstack is a TCP/IP stack in this process whose only network device is a
// port of the switch. It opens connections as [net.Dialer] does, and nothing of the
// machine's own network is in their way.
//
//	Stack   gVisor's stack with addresses and routes; opens connections
//	└ link  the stack's Ethernet device: a guest's end of a vhost-user port
//
// The stack is gVisor's, whose API promises nothing: all that knows it is here, and
// the version is pinned. Frames go by shared memory, as those of any guest do, so the
// switch need not know what is at the other end: frames of 64 KiB in both directions
// where the port takes them, and the port's peer may die, or the switch, without the
// other.
//
// # Memory
//
// Rings and buffers have a fixed size. The buffers of connections come out of one
// budget: each gets a share of what is left, and who would get less than a useful
// one is refused.
package netstack
