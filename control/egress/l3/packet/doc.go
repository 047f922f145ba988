// Package packet reads the headers of IP packets out of a tunnel, and writes the
// few packets that the end of a tunnel sends itself: echoes, and the ICMP error
// that says that a packet is too big.
//
// What comes out of a tunnel was written by somebody else: Parse takes any bytes,
// and says only what is in them for certain.
package packet
