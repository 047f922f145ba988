package flows

import (
	"fmt"
	"testing"

	"millrace/control/ovsdb/flowmodel"
)

// manyRows are different rows of Flow.
func manyRows(n int) []*flowmodel.Flow {
	out := make([]*flowmodel.Flow, n)
	for i := range out {
		out[i] = &flowmodel.Flow{
			UUID: fmt.Sprintf("11111111-2222-3333-4444-%012d", i), Bridge: "br0", Table: i % 4, Priority: 100 + i%1000, Cookie: i,
			Match:   fmt.Sprintf("ip4.src == 10.%d.%d.%d && ip4.dst == 192.168.%d.0/24 && tcp.dst == %d", i>>16, i>>8&255, i&255, i%250, 1+i%60000),
			Actions: fmt.Sprintf(`reg0 = %d; outport = "p2"; output;`, i%7),
		}
	}
	return out
}

// BenchmarkLoad: 100,000 rows from structs to changes of the flow table.
func BenchmarkLoad(b *testing.B) {
	rows := manyRows(100_000)
	b.ReportAllocs()
	for b.Loop() {
		book := NewBook()
		book.SetBridges(labBridges())
		for _, r := range rows {
			book.SetFlow(r, true)
		}
		book.Compile()
		if n := len(book.Changes()); n != len(rows) {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(rows)), "ns/row")
}

// BenchmarkChange: one row of 100,000 gets another priority.
func BenchmarkChange(b *testing.B) {
	book := NewBook()
	book.SetBridges(labBridges())
	rows := manyRows(100_000)
	for _, r := range rows {
		book.SetFlow(r, true)
	}
	settle := func() {
		book.Compile()
		book.Done(book.Changes(), nil)
		book.Settle()
	}
	settle()
	book.Told(book.News(len(rows)))
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		r := *rows[n%len(rows)]
		r.Priority = n % 60000
		book.SetFlow(&r, false)
		settle()
	}
}
