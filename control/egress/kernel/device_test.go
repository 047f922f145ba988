package kernel

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"millrace/waittest"
)

// see sets which device was seen last, and seen returns it: 0 is none.
func (d *Dialer) see(index int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.way.index = index
}

func (d *Dialer) seen() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.way.index
}

// TestDeviceAway: a dial while the device is away waits for it to come again, as long as it
// may; and one that meets a device without routes waits for them a little.
func TestDeviceAway(t *testing.T) {
	name := namespace(t)
	for _, device := range []string{"", "hole"} {
		t.Run("device="+device, func(t *testing.T) {
			d, err := Open(name, device)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			ip := func(args string) {
				t.Helper()
				if out, err := exec.Command("ip", append([]string{"-n", name}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
					t.Fatalf("ip %s: %v: %s", args, err, out)
				}
			}
			port := map[string]int{"": 7, "hole": 8}[device]
			listenIn(t, d, port)
			target := map[string]string{"": "192.0.2.1:7", "hole": "192.0.2.1:8"}[device]
			for _, network := range []string{"tcp", "udp"} {
				ip("link del hole")
				d.see(-1) // as one that was there before, and is none of these
				short, cancel := context.WithCancel(t.Context())
				failed := make(chan error, 1)
				go func() {
					_, err := d.DialContext(short, network, target)
					failed <- err
				}()
				waittest.Until(t, "the dial sees that the device is away", func() bool { return d.seen() == 0 })
				cancel()
				if err := <-failed; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "is the dataplane running?") {
					t.Errorf("%s, while the device is away: %v", network, err)
				}
				done := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					c, err := d.DialContext(ctx, network, target)
					if err == nil && network == "tcp" {
						_ = c.SetDeadline(time.Now().Add(time.Minute))
						if _, err = c.Write([]byte("x")); err == nil {
							_, err = io.ReadFull(c, make([]byte, 1))
						}
					}
					if c != nil {
						_ = c.Close()
					}
					done <- err
				}()
				ip("link add hole type veth peer name end")
				ip("link set end up")
				ip("link set hole up")
				time.Sleep(100 * time.Millisecond)
				select {
				case err := <-done:
					t.Errorf("%s, before the device has its address: %v", network, err)
					ip("addr add 192.0.2.1/24 dev hole")
					continue
				default:
				}
				ip("addr add 192.0.2.1/24 dev hole")
				if err := <-done; err != nil {
					t.Errorf("%s, when the device is back: %v", network, err)
				}
			}
		})
	}
}
