package sys

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNetwork calls fn on a thread that is in the network namespace ns. What fn
// opens stays in it; goroutines that fn starts are not in it.
func InNetwork(ns *os.File, fn func() error) error {
	return OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
		}
		return fn()
	})
}

// OnThread calls fn on a thread that ends afterwards, and with it what fn has made of
// it: its namespaces, say.
func OnThread(fn func() error) error {
	done := make(chan error)
	go onThread(func() { done <- fn() })
	return <-done
}

// onThread calls fn on a thread that ends afterwards. The process's first thread
// never ends, and others look at it to learn of the process's namespace: it is
// held while another one is used.
func onThread(fn func()) {
	runtime.LockOSThread() // a thread ends with a goroutine that does not unlock it
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		fn()
	}()
	<-done
}
