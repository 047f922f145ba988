// Package underlay follows how the kernel reaches other hosts, for the tunnels of
// package dataplane: its routes, neighbours, devices and addresses, by rtnetlink.
//
// Nothing is kept in step piece by piece. Netlink tells that something has
// happened, and then the kernel is asked again, for each host: ip route get, and
// the neighbour that this leads to. So policy routing, path MTUs and whatever the
// kernel knows besides count, too. Answers are snapshots that anybody may read.
//
// A neighbour that tunnels use is used by nobody in the kernel, which would ask for
// its address neither now nor when it is old. So the kernel is told to use it
// (NTF_USE): at once if there is no address, and every useEvery besides.
package underlay
