// Package slots is the device plugin: it tells kubelet how many interfaces of each
// bridge pods may have on this node, and mounts a directory into the containers that get
// one, so that a socket can come into it later.
//
//	Plugin     one bridge, which is one resource
//	server     its gRPC server at one socket, for one life of kubelet
//	slot       a directory below the run directory, and what Multus is told of it
//
// Kubelet forgets all plugins when it starts, and removes their sockets: a plugin whose
// socket has gone, or that sees another kubelet, begins anew.
//
// The protocol is that of k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1.
package slots
