package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/service/switchtest"
)

// TestWorkers: workers are where clients want them, also after a restart, and
// where the dataplane was started with if they want nothing.
func TestWorkers(t *testing.T) {
	dir := t.TempDir()
	sw := &switchtest.Switch{}
	_, stop := serve(t, dir, sw, false)
	c := dial(t, dir)
	ctx := testContext(t)
	r, err := c.SetWorkers(ctx, &api.SetWorkersRequest{Cpus: []uint32{7, 5, 7}})
	if err != nil || !slices.Equal(r.GetWorkers(), []uint32{5, 7}) || !slices.Equal(sw.Workers(), []int{5, 7}) {
		t.Fatalf("%v, %v, workers on %v", r, err, sw.Workers())
	}
	for _, cpus := range [][]uint32{{1024}, {1, 1 << 31}} {
		var e *api.Error
		if _, err := c.SetWorkers(ctx, &api.SetWorkersRequest{Cpus: cpus}); !errors.As(err, &e) || e.Field != "cpus" {
			t.Errorf("CPUs %v: %v", cpus, err)
		}
	}
	stop()

	sw = &switchtest.Switch{}
	_, stop = serve(t, dir, sw, false)
	c = dial(t, dir)
	if i := c.Info; fmt.Sprint(i.GetWorkers(), i.GetWorkersAsked(), len(i.GetUnrestored())) != "[5 7] [5 7] 0" {
		t.Errorf("after a restart: %v", i)
	}
	r, err = c.SetWorkers(ctx, &api.SetWorkersRequest{})
	if err != nil || !slices.Equal(r.GetWorkers(), []uint32{2, 3}) || !slices.Equal(sw.Workers(), []int{2, 3}) {
		t.Errorf("as at the start: %v, %v", r, err)
	}
	if i, err := c.GetInfo(ctx, &api.GetInfoRequest{}); err != nil || len(i.GetWorkersAsked()) != 0 {
		t.Errorf("asked for: %v, %v", i, err)
	}
	stop()

	sw = &switchtest.Switch{}
	serve(t, dir, sw, false)
	if got := sw.Workers(); !slices.Equal(got, []int{0}) { // the fake's, and not touched
		t.Errorf("after the next restart: %v", got)
	}
}

// TestWorkersRefused: nothing is remembered of what cannot be, and what cannot
// be again is shown until something else is asked for.
func TestWorkersRefused(t *testing.T) {
	dir := t.TempDir()
	_, stop := serve(t, dir, &switchtest.Switch{}, false)
	if _, err := dial(t, dir).SetWorkers(testContext(t), &api.SetWorkersRequest{Cpus: []uint32{5}}); err != nil {
		t.Fatal(err)
	}
	stop()
	sw := &switchtest.Switch{RefuseWorkers: func(cpus []int) error {
		if cpus[0] == 5 {
			return fmt.Errorf("set workers: %w: CPU 5", dataplane.ErrBadCPUs)
		}
		return nil
	}}
	serve(t, dir, sw, false)
	c := dial(t, dir)
	if u := c.Info.GetUnrestored(); len(u) != 1 || u[0].GetWhat() != "workers on CPUs 5" {
		t.Errorf("not restored: %v", u)
	}
	if _, err := c.SetWorkers(testContext(t), &api.SetWorkersRequest{Cpus: []uint32{5}}); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "CPU 5") {
		t.Errorf("refused: %v", err)
	}
	if _, err := c.SetWorkers(testContext(t), &api.SetWorkersRequest{Cpus: []uint32{6}}); err != nil {
		t.Error(err)
	}
	if i, err := c.GetInfo(testContext(t), &api.GetInfoRequest{}); err != nil || len(i.GetUnrestored()) != 0 || !slices.Equal(i.GetWorkersAsked(), []uint32{6}) {
		t.Errorf("%v, %v", i, err)
	}
}

// TestSlowClose: a peer that holds up the end of its port holds up only the call
// that deletes it, and that for a moment.
func TestSlowClose(t *testing.T) {
	sw, c, _ := start(t)
	for _, name := range []string{"p", "q"} {
		addPort(t, c, "br0", name)
	}
	begun, ending := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(ending) })
	defer end()
	sw.Closing = func(context.Context) error { close(begun); <-ending; return nil }
	deleted := make(chan error, 1)
	go func() {
		_, err := c.DelPort(testContext(t), &api.DelPortRequest{Name: "p"})
		deleted <- err
	}()
	select {
	case <-begun:
	case err := <-deleted:
		t.Fatalf("deleted at once: %v", err)
	}
	addPort(t, c, "br0", "other") // while it is being deleted, the rest works
	end()
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	sw.Closing = func(ctx context.Context) error { <-ctx.Done(); return dataplane.ErrBusy }
	began := time.Now()
	if _, err := c.DelPort(testContext(t), &api.DelPortRequest{Name: "q"}); err != nil || time.Since(began) < closeWithin {
		t.Errorf("deleted after %v: %v", time.Since(began), err)
	}
}
