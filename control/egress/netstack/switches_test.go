package netstack

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"millrace/waittest"
)

// TestDialWithoutSwitch: a dial while no switch has the port waits for the next one, as long
// as it may, whether the switch has just gone or was never there.
func TestDialWithoutSwitch(t *testing.T) {
	w := newWire(t)
	a, b := ends(t, w)
	serve(t, b, "10.9.0.2:7", echo)
	for _, gone := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
		w.stop()
		time.Sleep(gone) // with 0 the stack may not know yet
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := a.DialContext(ctx, "tcp", "10.9.0.2:7")
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(patience))
				exchange(t, c, 1000)
				_ = c.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			t.Errorf("%v after the switch: %v, without a switch", gone, err)
			w.start()
			continue
		case <-time.After(100 * time.Millisecond):
		}
		w.start()
		back := time.Now()
		if err := <-done; err != nil {
			t.Errorf("%v after the switch: %v", gone, err)
		}
		t.Logf("%v after the switch: answered %v after the next", gone, time.Since(back))
	}
	w.stop()
	defer w.start()
	waittest.Until(t, "dials know that the switch is gone", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := a.link.switches.await(ctx)
		return err != nil
	})
	for _, network := range []string{"tcp", "udp"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := a.DialContext(ctx, network, "10.9.0.2:7")
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || network == "udp" && !strings.Contains(err.Error(), "no switch has the port") {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// TestDialsTakeNoMemory: dials that nobody answers take nothing of what open connections share.
func TestDialsTakeNoMemory(t *testing.T) {
	a, b := ends(t, newWire(t))
	serve(t, b, "10.9.0.2:7", echo)
	a.budget.left = shareMin
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 10)
	for range cap(ended) {
		go func() {
			_, err := a.DialContext(ctx, "tcp", "10.9.0.78:8") // nobody answers ARP
			ended <- err
		}()
	}
	time.Sleep(20 * time.Millisecond) // until they are under way
	exchange(t, dial(t, a, "tcp", "10.9.0.2:7"), 1000)
	cancel()
	for range cap(ended) {
		if err := <-ended; err == nil {
			t.Error("nobody is there, and it connects")
		}
	}
}

// TestShares: what connections get is less the more there are, and there can be as many as an
// agent may have requests.
func TestShares(t *testing.T) {
	b := budget{left: 512 << 20}
	var all []int64
	for {
		n, err := b.share()
		if err != nil {
			break
		}
		got, err := b.take(n)
		if got != n || err != nil {
			t.Fatalf("share %d is %d: %v", len(all), got, err)
		}
		all = append(all, n)
	}
	if all[0] != 2<<20 || all[500]>>10 < 250 || all[600]>>10 < 24 || len(all) < 4096 {
		t.Errorf("the first gets %d KiB, the 500th %d, the 600th %d, the last of %d %d", all[0]>>10, all[500]>>10, all[600]>>10, len(all), all[len(all)-1]>>10)
	}
	for _, n := range all {
		b.give(n)
	}
	if b.left != 512<<20 {
		t.Errorf("%d bytes are left when all were given back", b.left)
	}
	if n, err := b.take(1000); n != 1000 || err != nil {
		t.Errorf("a connection that wants less gets %d, %v", n, err)
	}
}
