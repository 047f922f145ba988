package service

import (
	"fmt"
	"testing"

	"millrace/dataplane/api"
)

// BenchmarkRemember is what each change costs for ports.json, by the number of
// ports.
func BenchmarkRemember(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := &Dir{path: b.TempDir()}
			var st state
			for i := range n {
				st.addPort(&api.PortSpec{Bridge: "br0", Name: fmt.Sprint("port", i), Type: "dpdkvhostuser", Path: fmt.Sprint("/run/millrace/port", i), Mtu: 1500})
			}
			for b.Loop() {
				if err := d.writeState(st); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
