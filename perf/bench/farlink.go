package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// A farLink is a link with delay and loss between two network namespaces. It is
// what tc's netem does, for machines whose kernel has none: a packet that one
// side's device is given comes out of the other's later, or never. It carries
// what the processor can, and its queue is short, as a router's should be.
type farLink struct {
	ends [2]*os.File
	over sync.WaitGroup
}

// newFarLink makes a device link0 in each namespace.
func newFarLink(a, b string) (*farLink, error) {
	l := new(farLink)
	for i, ns := range []string{a, b} {
		f, err := openTUN(ns, "link0")
		if err != nil {
			l.close()
			return nil, err
		}
		l.ends[i] = f
		if err := ip(fmt.Sprintf("-n %s link set link0 mtu %d txqueuelen 1000", ns, farMTU)); err != nil {
			l.close()
			return nil, err
		}
	}
	for i := range l.ends {
		l.carry(l.ends[i], l.ends[1-i], rand.New(rand.NewPCG(7, uint64(i))))
	}
	return l, nil
}

// openTUN makes a TUN device in a namespace.
func openTUN(ns, name string) (*os.File, error) {
	n, err := os.Open("/run/netns/" + ns)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	var fd int
	err = sys.InNetwork(n, func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		r, err := unix.NewIfreq(name)
		if err == nil {
			r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make device %s in namespace %s: %w", name, ns, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// A delayed packet leaves when it is due.
type delayed struct {
	due   time.Time
	bytes []byte
}

// Bounds of what the link holds.
const (
	farQueue = 8192                  // packets under way: more than a Gbit/s takes
	farLate  = 20 * time.Millisecond // beyond their time: a queue, where more are dropped
)

// carry carries packets one way.
func (l *farLink) carry(from, to io.ReadWriter, random *rand.Rand) {
	way := make(chan delayed, farQueue)
	free := sync.Pool{New: func() any { return new([farMTU]byte) }}
	l.over.Go(func() {
		defer close(way)
		for {
			b := free.Get().(*[farMTU]byte)
			n, err := from.Read(b[:])
			if err != nil {
				return
			}
			if random.Float64() < farLoss {
				free.Put(b)
				continue
			}
			select {
			case way <- delayed{time.Now().Add(farDelay), b[:n]}:
			default: // the way is full
				free.Put(b)
			}
		}
	})
	l.over.Go(func() {
		for p := range way {
			wait := time.Until(p.due)
			if wait > 0 {
				time.Sleep(wait)
			}
			if wait > -farLate {
				_, _ = to.Write(p.bytes) // a device that is down takes none
			}
			free.Put((*[farMTU]byte)(p.bytes[:farMTU]))
		}
	})
}

func (l *farLink) close() {
	for _, f := range l.ends {
		if f != nil {
			_ = f.Close()
		}
	}
	l.over.Wait()
}
