package fdb

import "testing"

// TestAge would fail if a station lived too long, too short, or if a slice of
// the sweep went over its bound.
func TestAge(t *testing.T) {
	for _, c := range []struct {
		name        string
		now, maxAge uint32
		want        int
	}{
		{"young", 399, 300, 0},
		{"as old as may be", 400, 300, 1},
		{"all old", 1000, 300, 2},
		{"clock behind", 50, 1, 0},
		{"no ageing", 100000, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := heapTable(t, 64, 5)
			w := worker(t, table, 0)
			learn(t, w, station(1, 1), 1, 100)
			learn(t, w, station(2, 1), 1, 90)
			if r := w.Touch(station(2, 1), 1, 120); r != Refreshed {
				t.Fatalf("touch: got %v, want refreshed", r)
			}
			if err := table.AddStatic(station(3, 1), 1); err != nil {
				t.Fatal(err)
			}
			got, calls := 0, 0
			for end := false; !end; calls++ {
				var n int
				n, end = table.Age(c.now, c.maxAge, 4)
				got += n
			}
			if s := table.Stats(); got != c.want || s.Events.Aged != uint64(c.want) || s.Learned != 2-c.want || s.Static != 1 {
				t.Errorf("got %d removed, %+v, want %d", got, s, c.want)
			}
			if c.maxAge != 0 && c.want < 2 && calls != table.Stats().Buckets/4 {
				t.Errorf("got %d calls for %d buckets by 4", calls, table.Stats().Buckets)
			}
		})
	}
}
