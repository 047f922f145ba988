package acceptance

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// wakeMost is how long the machine itself may take to wake an idle CPU and be woken by
// it, if times that consist of such wakes are to say something about the switch. On
// bare metal it is some 10 us, on a good virtual machine 40.
const wakeMost = 50 * time.Microsecond

// wakeRound is how long a byte takes through a pipe to a sleeping thread on the worker's CPU
// and back, at the median: two wakes and nothing else.
func wakeRound(t *testing.T) time.Duration {
	t.Helper()
	var there, back [2]int
	check(t, errors.Join(unix.Pipe2(there[:], unix.O_CLOEXEC), unix.Pipe2(back[:], unix.O_CLOEXEC)))
	defer func() {
		for _, fd := range []int{there[0], back[0], back[1]} {
			check(t, unix.Close(fd))
		}
	}()
	worker, guests := cpus(t)
	echoed, rounds := make(chan error, 1), make(chan []time.Duration, 1)
	go func() { echoed <- echo(worker, there[0], back[1]) }()
	go func() { rounds <- callEcho(guests, there[1], back[0]) }()
	times := <-rounds
	check(t, unix.Close(there[1]))
	check(t, <-echoed)
	slices.Sort(times)
	return times[len(times)/2]
}

// echo sends back what it reads, on a thread of its own on a CPU, until the other
// side closes.
func echo(cpu, from, to int) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := sys.Pin(cpu); err != nil {
		return err
	}
	b := []byte{0}
	for {
		if n, err := unix.Read(from, b); n != 1 || err != nil {
			return err
		}
		if _, err := unix.Write(to, b); err != nil {
			return err
		}
	}
}

// callEcho measures an echo again and again, each time after a pause in which both
// CPUs fall asleep. What goes wrong takes for ever.
func callEcho(cpu, to, from int) (times []time.Duration) {
	runtime.LockOSThread()
	b, err := []byte{0}, sys.Pin(cpu)
	for range 200 {
		time.Sleep(2 * time.Millisecond)
		start := time.Now()
		if _, e := unix.Write(to, b); e != nil {
			err = e
		}
		if _, e := unix.Read(from, b); e != nil {
			err = e
		}
		took := time.Since(start)
		if err != nil {
			took = time.Hour
		}
		times = append(times, took)
	}
	return times
}

// TestWake has the yardstick measure something.
func TestWake(t *testing.T) {
	need(t)
	took := wakeRound(t)
	if took <= 0 || took > time.Second {
		t.Errorf("to wake the other CPU and be woken takes %v", took)
	}
	t.Logf("to wake the other CPU and be woken takes %v; times are judged up to %v", took, wakeMost)
}
