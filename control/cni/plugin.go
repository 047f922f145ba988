// Package cni is the CNI plugin: it gives a pod an interface that is a port of the
// switch (CNI specification 1.1.0). It runs for a moment on the host, below the
// container runtime or Multus, and keeps nothing: what the switch has is in its
// database, addresses are the IPAM plugin's.
//
//	conf.go     the network's configuration and the call, judged once
//	limits.go   how much a pod may send and receive, and as whom
//	add.go      ADD: addresses, port, device
//	del.go      DEL, GC: the same backwards, whatever there is of it
//	lock.go     one call about an attachment at a time
//	valid.go    what GC keeps
//	check.go    CHECK, STATUS
//	ipam.go     the IPAM plugin
//	link.go     devices in the pod's network namespace
//	announce.go what others on the network are told of the pod's addresses
//	result.go   what the runtime is told; the file for Multus
//	queues.go   how many queues a pod's CPUs call for
package cni

import (
	"context"
	"errors"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"millrace/control/cni/attach"
)

// Versions are those of the CNI specification that the plugin speaks.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// Funcs are the plugin's operations.
func Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
}

const (
	callTimeout = 30 * time.Second // of a whole operation
	patience    = 2 * time.Second  // for a switch that is being restarted
)

// withTime calls fn with a context of the plugin's time.
func withTime(fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return asCNI(fn(ctx))
}

// asCNI is an error as CNI has it, with a code.
func asCNI(err error) error {
	var theirs *types.Error
	var ours *attach.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &theirs):
		return theirs
	case errors.As(err, &ours):
		return types.NewError(ours.Code, ours.Msg, ours.Details)
	case errors.Is(err, attach.ErrAway), errors.Is(err, context.DeadlineExceeded):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return types.NewError(types.ErrIOFailure, err.Error(), "")
}
