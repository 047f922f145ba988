package pktgen

import (
	"context"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dataplane/packet"
	"millrace/vhost"
)

// wire is a switch of two ports: what comes from one goes to the other. It
// returns the function that ends it, and one that says whether both ports forward.
func wire(t *testing.T, paths [2]string, role vhost.Role) (end func(), up func() bool) {
	var turns atomic.Uint64
	quiesce := func() {
		for was := turns.Load(); turns.Load() < was+2; {
			runtime.Gosched()
		}
	}
	var ports [2]*vhost.Port
	for i := range ports {
		p, err := vhost.Open(vhost.Options{Name: paths[i], Path: paths[i], Role: role, Quiesce: quiesce})
		if err != nil {
			t.Error(err)
			return func() {}, func() bool { return false }
		}
		ports[i] = p
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := packet.NewBatch()
		list := make([]packet.Ref, packet.BatchMax)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for i := range ports {
				tx := ports[1-i].TxQueue()
				for _, rx := range ports[i].RxQueues() {
					b.Reset()
					rx.Rx(b)
					if b.N == 0 {
						continue
					}
					l := list[:b.N]
					for k := range l {
						l[k] = packet.Ref{Frame: uint16(k)}
					}
					tx.Tx(b, l)
					rx.Release()
					tx.Commit(b)
					rx.Signal()
					tx.Signal()
				}
			}
			turns.Add(1)
		}
	}()
	end = func() {
		for _, p := range ports {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		<-done
	}
	up = func() bool { return ports[0].State().Link == vhost.LinkUp && ports[1].State().Link == vhost.LinkUp }
	return end, up
}

// TestSwitch sends through two ports of the switch's kind, in both roles.
func TestSwitch(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		role vhost.Role
	}{
		{"they listen", Config{}, vhost.Listen},
		{"we listen", Config{}, vhost.Connect},
		{"queues", Config{Flows: 10}, vhost.Listen},
		{"fast", Config{Mode: Fast}, vhost.Listen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			paths := [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
			cfg := tt.cfg
			cfg.Direction, cfg.Count, cfg.Rate, cfg.RingSize = Bidi, 50_000, switchRate, 4096
			if testing.Short() {
				cfg.Count = 20_000
			}
			q := 1
			if tt.cfg.Flows > 1 {
				// All queues' frames may come by one, whose ring then has room for them.
				q = 4
				cfg.Spare = int(cfg.RingSize) - int(cfg.RingSize)/(q+1)
			}
			for _, p := range paths {
				cfg.Ports = append(cfg.Ports, Port{Path: p, Listen: tt.role == vhost.Connect, Queues: q})
			}
			end, _ := wire(t, paths, tt.role)
			defer end()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			r, err := Run(ctx, cfg)
			if err != nil || !r.Total.Clean() || r.Total.Sent != 2*cfg.Count {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}

// TestSwitchRestarts kills and restarts a switch again and again while frames
// are sent, at times before it is up: frames for a port that is away are lost, and nothing
// comes twice or damaged.
func TestSwitchRestarts(t *testing.T) {
	dir := t.TempDir()
	paths := [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	cfg := Config{Rate: 200_000, Duration: time.Minute, Direction: Bidi, RingSize: 1024, Flows: 7}
	for _, p := range paths {
		cfg.Ports = append(cfg.Ports, Port{Path: p, Listen: true})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	running, enough := context.WithCancel(ctx)
	defer enough()
	done := make(chan int)
	go func() {
		n := 0
		for ; running.Err() == nil; n++ {
			end, up := wire(t, paths, vhost.Connect)
			for running.Err() == nil && n%2 == 0 && !up() {
				time.Sleep(time.Millisecond)
			}
			select {
			case <-running.Done():
			case <-time.After(50 * time.Millisecond):
			}
			if end(); n == 20 {
				enough()
			}
		}
		done <- n
	}()
	r, err := Run(running, cfg)
	enough()
	restarts := <-done
	if err != nil {
		t.Fatal(err)
	}
	if r.SwitchLosses < 10 || r.Total.Received == 0 || r.Total.Duplicated+r.Total.Corrupted+r.Total.Reordered+r.Total.Stale != 0 {
		t.Errorf("%d restarts: %v%+v", restarts, r, r.Total)
	}
	// What a switch takes with it was in a ring of one of two ports.
	if most := 2 * 2 * uint64(restarts+1) * uint64(cfg.RingSize); r.Total.Lost > most {
		t.Errorf("%d restarts, at most %d frames may be lost: %v", restarts, most, r)
	}
}
