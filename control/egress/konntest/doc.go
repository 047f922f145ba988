// Package konntest is a proxy-server of the Konnectivity protocol for tests. It
// does what those of sigs.k8s.io/apiserver-network-proxy do, also where that is
// a weakness: it writes to the clients of one agent's stream one after the
// other, it tells connections apart by agent id and connect id, and it keeps
// nobody from saying anything at the wrong time.
//
// In front it has both ways in: gRPC (ProxyService) and HTTP CONNECT.
package konntest
