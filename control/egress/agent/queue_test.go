package agent

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestQueue: what is put comes out, in order and whole, and the budget is whole
// again at the end.
func TestQueue(t *testing.T) {
	b := newBudget(3000)
	q := newQueue(b)
	r := rand.New(rand.NewPCG(1, 1))
	var sent, got []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, ok := q.take()
			if !ok {
				return
			}
			got = append(got, c...)
		}
	}()
	for i := range 2000 {
		c := bytes.Repeat([]byte{byte(i)}, 1+r.IntN(2000))
		sent = append(sent, c...)
		q.put(c, 2500)
	}
	q.end()
	<-done
	if !bytes.Equal(sent, got) {
		t.Errorf("%d bytes were put, %d others came out", len(sent), len(got))
	}
	if left := b.left.Load(); left != 3000 {
		t.Errorf("%d of the budget's 3000 bytes are left", left)
	}
}

// TestBudgetIsNobodys: a queue that is full, of a budget that is used up, keeps
// an empty one from nothing.
func TestBudgetIsNobodys(t *testing.T) {
	const all = 100 + chunkCost
	b := newBudget(all)
	full, empty := newQueue(b), newQueue(b)
	for full.putWithin(make([]byte, 50), 1<<20, 0) {
	}
	if !empty.putWithin(make([]byte, 5000), 10, 0) {
		t.Error("an empty queue refuses a chunk")
	}
	if empty.putWithin(make([]byte, 1), 1<<20, 0) {
		t.Error("the budget is used up, and a second chunk is taken")
	}
	full.breakOff()
	if left := b.left.Load(); left != all {
		t.Errorf("%d of %d bytes came back", left, all)
	}
	if !full.putWithin(make([]byte, 50), 0, 0) {
		t.Error("a queue that is broken makes its peer wait")
	}
}
