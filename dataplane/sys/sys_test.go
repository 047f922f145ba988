package sys

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseCPUs(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []int
		bad  bool
	}{
		{in: "1", want: []int{1}},
		{in: "4-6,1", want: []int{1, 4, 5, 6}},
		{in: "1,1-2", want: []int{1, 2}},
		{in: "", bad: true}, {in: "a", bad: true}, {in: "5-4", bad: true}, {in: "1024", bad: true}, {in: "-1", bad: true}, {in: "1-", bad: true},
	} {
		got, err := ParseCPUs(tt.in)
		if (err != nil) != tt.bad || !slices.Equal(got, tt.want) {
			t.Errorf("ParseCPUs(%q) = %v, %v; want %v, error %v", tt.in, got, err, tt.want, tt.bad)
		}
	}
}

// FuzzCPUs: a list has the CPUs that its ranges have, which a set of bits says too, and is the
// same when it is written again.
func FuzzCPUs(f *testing.F) {
	for _, s := range []string{"", "0", "4-6,1", "1,1-2", "0-1023", "5-4", "1024", "-1", "1-", "1,,2", " 3 , 4", "0x1", "+1", "1-2-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cpus, err := ParseCPUs(s)
		if err != nil {
			if !errors.Is(err, errCPUList) {
				t.Fatal(err)
			}
			return
		}
		var set [1024]bool
		for part := range strings.SplitSeq(s, ",") {
			var a, b int
			if n, _ := fmt.Sscanf(strings.TrimSpace(part), "%d-%d", &a, &b); n == 1 {
				b = a
			}
			for c := a; c <= b; c++ {
				set[c] = true
			}
		}
		var want []int
		var text []string
		for c, in := range set {
			if in {
				want, text = append(want, c), append(text, strconv.Itoa(c))
			}
		}
		if !slices.Equal(cpus, want) {
			t.Fatalf("%q is %v, want %v", s, cpus, want)
		}
		if again, err := ParseCPUs(strings.Join(text, ",")); err != nil || !slices.Equal(again, cpus) {
			t.Fatalf("%v became %v, %v", cpus, again, err)
		}
	})
}

// TestPlaceBut leaves a thread where it is.
func TestPlaceBut(t *testing.T) {
	all, err := AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 {
		t.Skip("needs two CPUs")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() {
		if err := Place(all); err != nil {
			t.Error(err)
		}
	}()
	if err := Pin(all[1]); err != nil {
		t.Fatal(err)
	}
	if err := Place(all[:1], Thread()); err != nil {
		t.Fatal(err)
	}
	if got, err := AllowedCPUs(); err != nil || !slices.Equal(got, all[1:2]) {
		t.Errorf("the thread runs on CPUs %v, %v", got, err)
	}
}

// TestYield: all threads of a process yield, and then none yields less. It is
// another process, for an ordinary user cannot take it back.
func TestYield(t *testing.T) {
	if os.Getenv("MILLRACE_TEST_YIELD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestYield$")
		cmd.Env = append(os.Environ(), "MILLRACE_TEST_YIELD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	nice := func() int {
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, Thread())
		if err != nil {
			t.Error(err)
		}
		return 20 - raw
	}
	want := min(nice()+2, 19)
	if err := errors.Join(Yield(want), Yield(want-1)); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		got := make(chan int)
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine: the next one has another
			got <- nice()
		}()
		if n := <-got; n != want {
			t.Fatalf("a thread has a nice value of %d, want %d", n, want)
		}
	}
}

// TestPlace moves all threads to one CPU: a new one begins there.
func TestPlace(t *testing.T) {
	all, err := AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Place(all); err != nil {
			t.Error(err)
		}
	}()
	want := all[:1]
	if err := Place(want); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		got := make(chan []int)
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine: the next one has another
			cpus, _ := AllowedCPUs()
			got <- cpus
		}()
		if cpus := <-got; !slices.Equal(cpus, want) {
			t.Fatalf("a thread runs on CPUs %v, want %v", cpus, want)
		}
	}
}

// TestFDClosesOnce: a descriptor that was taken or closed is not closed again,
// which could hit somebody else's.
func TestFDClosesOnce(t *testing.T) {
	f, err := NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	n := f.Int()
	g := f.Take()
	if f.Valid() || !g.Valid() {
		t.Fatal("Take left the descriptor behind")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !IsEvent(n) {
		t.Fatal("descriptor closed by its former owner")
	}
	if err := g.Close(); err != nil || IsEvent(n) {
		t.Fatalf("not closed by its owner: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPoller wakes for each signal although nobody reads the eventfd.
func TestPoller(t *testing.T) {
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	f, _ := NewEvent()
	defer f.Close()
	if err := p.Add(f.Int()); err != nil {
		t.Fatal(err)
	}
	if n := p.Wait(0); n != 0 {
		t.Fatalf("%d readable before any signal", n)
	}
	for range 3 {
		if err := Signal(f); err != nil {
			t.Fatal(err)
		}
		if n := p.Wait(1000); n != 1 {
			t.Fatalf("%d readable after a signal", n)
		}
		if n := p.Wait(0); n != 0 {
			t.Fatalf("still readable without a new signal")
		}
	}
}

func TestMemfd(t *testing.T) {
	f, err := NewMemfd("test", 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Ftruncate(f.Int(), 4096); err == nil {
		t.Fatal("the memory file could be shrunk")
	}
	a, err := MapShared(f.Int(), 4096, 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := MapShared(f.Int(), 0, 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a.Bytes()[0] = 42
	if b.Bytes()[4096] != 42 {
		t.Fatal("mappings do not share memory")
	}
}

func TestTSC(t *testing.T) {
	outer := time.Now()
	a := TSC()
	inner := time.Now()
	time.Sleep(10 * time.Millisecond)
	least := time.Since(inner)
	d := TSCDuration(TSC() - a)
	if most := time.Since(outer); d < least*99/100 || d > most*101/100 {
		t.Fatalf("%v to %v measured as %v", least, most, d)
	}
}

// TestLockFile: one has the lock, others are told who, and it ends with its file.
func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := LockFile(path); !errors.As(err, &held) || held.PID != strconv.Itoa(os.Getpid()) || held.Path != path {
		t.Errorf("the second lock: %v", err)
	}
	f.Close()
	again, err := LockFile(path)
	if err != nil {
		t.Fatalf("when the first is gone: %v", err)
	}
	again.Close()
	if _, err := LockFile(filepath.Join(path, "none")); err == nil || errors.As(err, &held) {
		t.Errorf("a file that cannot be: %v", err)
	}
}
