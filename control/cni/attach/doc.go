// Package attach is what the CNI plugin and the switch's agent say to each other: what
// a pod's interface asks of the switch, and what came of it.
//
// A call is a connection to a Unix socket in the run directory: one request, one
// reply, each an object in JSON, then the end. The socket is for its owner and for
// root. Either side refuses what it does not understand.
package attach
