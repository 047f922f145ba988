package agent

import (
	"context"
	"errors"

	"millrace/control/cni/attach"
	"millrace/control/ovsdb"
)

// Slots and volumes outlive the attachments that are in them: kubelet gives a slot to another pod, and a pod whose sandbox is made
// anew, as after a restart of the node, has its slots and volumes as before. So the attachment that was there may still have rows
// when the next one comes, and be removed when that is there. Neither may have the other's socket.

// evict removes attachments of pods that are gone from the place of one that comes.
func (a *agent) evict(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment) error {
	p := a.placeOf(at)
	if !p.let() {
		return nil
	}
	list, err := a.tenants(ctx, d, p.dir)
	errs := []error{err}
	for _, r := range list {
		if r.Key != at.Key && r.gone(a.BootID) {
			_, err := a.removeGone(ctx, r)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// vacate removes the place of an attachment, but for what another one has there by now.
func (a *agent) vacate(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment) error {
	p := a.placeOf(at)
	defer a.calls.lock(p.dir)()
	shared := false
	if p.let() {
		list, err := a.tenants(ctx, d, p.dir)
		if err != nil {
			return err
		}
		for _, r := range list {
			shared = shared || r.Key != at.Key
		}
	}
	return a.removePlace(at, shared)
}
