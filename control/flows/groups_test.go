package flows

import (
	"fmt"
	"testing"

	"millrace/control/ovsdb/flowmodel"
)

// TestHolders: a bucket that changes has the groups made anew that have it now, in
// whatever order rows are told of, and no others.
func TestHolders(t *testing.T) {
	b := NewBook()
	group := func(name string, buckets ...string) {
		b.SetGroup(&flowmodel.Group{UUID: name, Name: name, Buckets: buckets}, true)
	}
	changed := func(uuid string) (names string) {
		clear(b.ungrouped)
		b.SetBucket(&flowmodel.Bucket{UUID: uuid, Weight: 1, Actions: "output;"})
		for _, name := range []string{"g", "h"} {
			if _, ok := b.ungrouped[b.groups.rows[name]]; ok {
				names += name
			}
		}
		return names
	}
	group("g", "b1", "b2")
	group("h", "b2")
	got := fmt.Sprint(changed("b1"), " ", changed("b2"), " ", changed("b3"))
	group("g", "b2", "b3")
	got += fmt.Sprint(", ", changed("b1"), " ", changed("b2"), " ", changed("b3"))
	b.DropGroup("h")
	clear(b.ungrouped)
	b.DropBucket("b2")
	got += fmt.Sprint(", ", len(b.ungrouped), " ", changed("b2"))
	if want := "g gh ,  gh g, 1 g"; got != want {
		t.Errorf("groups made anew: %s, want %s", got, want)
	}
	if b.DropGroup("g"); len(b.holders) != 0 {
		t.Errorf("no group has a bucket, and the book knows %v", b.holders)
	}
}
