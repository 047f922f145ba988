package flowcache

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/flowtable"
)

// resident counts the pages of bytes from an address on that the kernel has provided, be they memory
// or on their way to another place (Documentation/admin-guide/mm/pagemap.rst).
func resident(t *testing.T, base uintptr, bytes int) (pages int) {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	words := make([]byte, bytes/pageSize*8)
	if _, err := f.ReadAt(words, int64(base)/pageSize*8); err != nil {
		t.Fatal(err)
	}
	for i := 7; i < len(words); i += 8 {
		pages += int(words[i]>>7 | words[i]>>6&1) // present, or swapped or being moved
	}
	return pages
}

// TestSupply fills a cache: it asks for memory ahead of what it uses, which is there then, and
// keeps all entries while another goroutine supplies.
func TestSupply(t *testing.T) {
	probe, err := newMapping(pageSize)
	if err != nil {
		t.Fatal(err)
	}
	if errors.Is(unix.Madvise(overlay[byte](&probe, pageSize), unix.MADV_POPULATE_WRITE), unix.EINVAL) {
		t.Skip("needs a kernel that provides memory when it is asked (5.14)")
	}
	if err := probe.close(); err != nil {
		t.Fatal(err)
	}
	o := smallOptions()
	o.Wild, o.ProgramBytes, o.Idle = 1<<16, 16<<20, 100
	c, _ := newTestCache(t, o, nil)
	p := newTestPlan(t, c)
	if c.Upkeep(0, 8); c.Asks() || c.Supply() {
		t.Error("an empty cache asks for memory")
	}
	mask := flowtable.Key{flowtable.WordIP4: ^uint64(0)}
	asked, pieces := 0, 0
	const flows = 6000
	for i := range flows {
		k := flowKey(1, i)
		mustInstall(t, c, p, &k, false, output(uint32(i), mask))
		if c.Upkeep(0, 8); !c.Asks() {
			continue
		}
		asked++
		done := make(chan int)
		go func() {
			n := 0
			for c.Supply() {
				n++
			}
			done <- n
		}()
		pieces += <-done
		used := c.programs.reached * slabLines * lineBytes
		goal := min(used+supplyMore, c.programs.mem.size)
		if n := resident(t, c.programs.base(), goal); n < goal/pageSize {
			t.Errorf("with %d flows: %d of %d pages of programs are there", i, n, goal/pageSize)
		}
	}
	if c.Asks() || c.Supply() {
		t.Error("there is still something to supply")
	}
	if asked == 0 || asked > 16 || pieces < asked {
		t.Errorf("asked %d times for %d pieces", asked, pieces)
	}
	table := c.tables[wildNarrow]
	if n := resident(t, table.base(), table.mem.size); n < table.mem.size/pageSize*9/10 {
		t.Errorf("%d of %d pages of a table of many entries are there", n, table.mem.size/pageSize)
	}
	for i := range flows {
		if k := flowKey(1, i); one(c, p, &k, false) == 0 {
			t.Fatalf("flow %d has lost its entry", i)
		}
	}
	checkCache(t, c)
}

// TestInTurn has flows come one after the other, again and again, more than get an entry at
// first sight: nearly all of them must have one soon.
func TestInTurn(t *testing.T) {
	o := smallOptions()
	o.Idle = 100
	c, _ := newTestCache(t, o, nil)
	p := newTestPlan(t, c)
	flows := o.Wild * 45 / 100
	comp := output(2, flowtable.Key{flowtable.WordIP4: ^uint64(0)})
	missed := 0
	for range 6 {
		missed = 0
		for i := range flows {
			k := flowKey(1, i)
			if one(c, p, &k, false) == 0 {
				missed++
				c.Install(p, &k, false, comp, 0)
			}
		}
	}
	if missed > flows/50 {
		t.Errorf("%d of %d flows that come in turn still miss", missed, flows)
	}
}

// TestSightedAgrees: Sighted with Install for those that it says yes to is what Install does.
func TestSightedAgrees(t *testing.T) {
	o := smallOptions()
	o.Wild, o.Secrets = 256, testSecrets()
	a, _ := newTestCache(t, o, nil)
	b, _ := newTestCache(t, o, nil)
	pa, pb := newTestPlan(t, a), newTestPlan(t, b)
	for i := range 4000 {
		k := flowKey(1, i%700)
		wide := i%5 == 0
		comp := output(uint32(i%3), flowtable.Key{flowtable.WordIP4: ^uint64(0), flowtable.WordL4: uint64(i%7) << 32})
		_, want := a.Install(pa, &k, wide, comp, 0)
		got := FirstSight
		if b.Sighted(pb, &k, wide, &comp.Mask) {
			_, got = b.InstallSighted(pb, &k, wide, comp, 0)
		}
		if got != want {
			t.Fatalf("install %d: %v, want %v", i, got, want)
		}
	}
	if a.Stats() != b.Stats() {
		t.Errorf("counted %+v, want %+v", b.Stats(), a.Stats())
	}
	if a.Stats().Refused[FirstSight] == 0 || a.Stats().Installs == 0 {
		t.Errorf("nothing was tested: %+v", a.Stats())
	}
}
