package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"millrace/control/cni/attach"
)

// A pod whose namespace is gone in lostMax looks, one after the other, has no attachment any
// more; one of another boot of the host has none at once. The runtime's own DEL comes first in nearly all cases.
const lostMax = 2

// noteEvery is how often the agent looks for notes.
const noteEvery = time.Second

// reconcileLoop removes what no pod has, until ctx ends: what notes say at once, what
// pods have left without a word now and then.
func (a *agent) reconcileLoop(ctx context.Context) {
	said := ""
	for next := time.Now(); ctx.Err() == nil; {
		one, cancel := context.WithTimeout(ctx, callTimeout)
		var looked *attach.Reply
		var err error
		if time.Now().Before(next) {
			err = a.readNotes(one)
		} else if looked, err = a.reconcile(one); looked != nil { // also if something could not be removed: the next look may find it gone
			next = time.Now().Add(a.Every)
		}
		cancel()
		switch {
		case err == nil && looked != nil:
			said = ""
		case err != nil && err.Error() != said && ctx.Err() == nil:
			said = err.Error()
			a.Log.Info("ports of pods not compared with pods: tried again", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(noteEvery, a.Every)):
		}
	}
}

// reconcile carries out notes, and removes what no pod has. It returns which ports went, or nil if it has not seen what pods
// have. What cannot be removed is an error, and stops nothing else.
func (a *agent) reconcile(ctx context.Context) (*attach.Reply, error) {
	a.looking.Lock()
	defer a.looking.Unlock()
	notes := a.readNotes(ctx)
	d, err := a.dial(ctx)
	if err != nil {
		return nil, errors.Join(notes, err)
	}
	defer d.Close()
	rates, err := rateRows(ctx, d)
	if err != nil {
		return nil, errors.Join(notes, err)
	}
	list, err := a.records(ctx, d)
	if err != nil {
		return nil, errors.Join(notes, err)
	}
	rest := a.sweepRates(ctx, d, rates, list)
	removed, err := a.removeLost(ctx, list)
	return &attach.Reply{Removed: removed}, errors.Join(notes, rest, err, a.sweep(list))
}

// removeLost removes attachments whose pods are gone, and returns their ports. looking is held.
func (a *agent) removeLost(ctx context.Context, list []*record) (removed []string, err error) {
	var errs []error
	lost := map[string]uint{}
	for _, r := range list {
		port := r.Port()
		if !r.gone(a.BootID) {
			continue
		}
		if lost[port] = a.lost[port] + 1; lost[port] < lostMax && !r.ofOtherBoot(a.BootID) {
			continue
		}
		a.Log.Info("pod is gone, its port is removed", zap.String("port", port), zap.String("pod", r.Pod.Namespace+"/"+r.Pod.Name))
		went, err := a.removeGone(ctx, r)
		if errs = append(errs, err); went {
			removed = append(removed, port)
		}
	}
	a.lost = lost
	return removed, errors.Join(errs...)
}

// removeGone detaches an attachment whose pod is still gone, and reports whether it has.
func (a *agent) removeGone(ctx context.Context, r *record) (bool, error) {
	defer a.calls.lock(r.Port())()
	if !r.gone(a.BootID) {
		return false, nil
	}
	err := a.take(ctx, &r.Attachment)
	return err == nil, err
}

// sweepAge is how old a directory without a port must be: an attach makes it first.
const sweepAge = time.Minute

// sweep removes directories that no attachment has.
func (a *agent) sweep(list []*record) error {
	known := map[string]bool{}
	for _, r := range list {
		known[r.Port()] = true
	}
	dir := filepath.Join(a.RunDir, podsDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		info, err := e.Info()
		if known[e.Name()] || err != nil || time.Since(info.ModTime()) < sweepAge {
			continue
		}
		errs = append(errs, a.removeOld(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// removeOld removes a directory of an attachment, or the link to one, unless an attach has made it anew since somebody has looked.
func (a *agent) removeOld(path string) error {
	defer a.calls.lock(filepath.Base(path))()
	if info, err := os.Lstat(path); err != nil || time.Since(info.ModTime()) < sweepAge {
		return nil
	}
	return os.RemoveAll(path)
}

// readNotes detaches what the plugin could tell nobody of, and what an agent that was killed has left undone.
func (a *agent) readNotes(ctx context.Context) error {
	list, err := attach.Notes(a.RunDir)
	for i := range list {
		err = errors.Join(err, a.carryOut(ctx, &list[i]))
	}
	return err
}

// carryOut carries out a note, unless it is overtaken by now.
func (a *agent) carryOut(ctx context.Context, at *attach.Attachment) error {
	defer a.calls.lock(at.Port())()
	if !attach.Noted(a.RunDir, at.Key) {
		return nil
	}
	return a.take(ctx, at)
}

// forget removes the note about a key: it has been done, or is overtaken.
func (a *agent) forget(k attach.Key) error { return attach.Forget(a.RunDir, k) }

// collect removes the attachments of a network that are not valid (CNI
// specification, section 2, GC).
func (a *agent) collect(ctx context.Context, network string, valid []attach.Key) (*attach.Reply, error) {
	if err := attach.CheckName(network); err != nil {
		return nil, attach.Errorf(attach.CodeInvalid, "network: %v", err)
	}
	keep := map[string]bool{}
	for _, k := range valid {
		k.Network = network
		if err := k.Check(); err != nil {
			return nil, attach.Errorf(attach.CodeInvalid, "valid: %v", err)
		}
		keep[k.Port()] = true
	}
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	list, err := a.records(ctx, d)
	d.Close()
	if err != nil {
		return nil, err
	}
	reply := &attach.Reply{}
	var errs []error
	for _, r := range list {
		if r.Network != network || keep[r.Port()] {
			continue
		}
		if err := a.detach(ctx, r.Key, &r.Attachment); err != nil {
			errs = append(errs, err)
			continue
		}
		reply.Removed = append(reply.Removed, r.Port())
	}
	return reply, errors.Join(errs...)
}
