// Package leases counts the proxy-servers of a control plane by the Lease
// objects that each of them renews. It asks the Kubernetes API with nothing but
// net/http: one list, and a watch from there on.
//
// A watch goes on where the last one ended. If the API has forgotten that place
// (410 Gone), the list is taken again. Bookmarks keep the place fresh while
// nothing changes.
package leases
