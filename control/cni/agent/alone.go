package agent

import (
	"context"

	"go.uber.org/zap"

	"millrace/control/cni/attach"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

// alone is an error if another pod has what an attachment must have for itself: its slot of the
// device plugin, or an address that was asked for. What a pod that is gone has left is removed: kubelet gives
// its slot to the next one before anybody looks for what is left. No port's lock is held, but those of
// lockAlone: else two that come together would not see each other.
func (a *agent) alone(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment) error {
	if err := a.aloneInSlot(ctx, d, at); err != nil {
		return err
	}
	return a.aloneWithMAC(ctx, d, at)
}

// lockAlone locks what an attachment must have for itself, until its rows tell others of it. Who has a port's lock
// may not call it.
func (a *agent) lockAlone(at *attach.Attachment) (unlock func()) {
	slot, mac := func() {}, func() {}
	if at.DeviceID != "" {
		slot = a.calls.lock("slot " + at.DeviceID)
	}
	if asksForMAC(at) {
		mac = a.calls.lock("mac " + at.MAC)
	}
	return func() { mac(); slot() }
}

// asksForMAC reports whether an attachment has another address than its key gives it, which nobody else's has.
func asksForMAC(at *attach.Attachment) bool { return at.MAC != at.Key.MAC().String() }

func (a *agent) aloneInSlot(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment) error {
	if at.DeviceID == "" {
		return nil
	}
	list, err := a.recordsWith(ctx, d, includes(map[string]string{keyOwner: owner, keyDevice: at.DeviceID}))
	if err != nil {
		return err
	}
	for _, r := range list {
		switch {
		case r.Key == at.Key:
			continue
		case r.ContainerID == at.ContainerID:
			return attach.Errorf(attach.CodeInvalid, "device %s is that of interface %s of the same pod: have it ask for one for each of its interfaces", at.DeviceID, r.IfName)
		case r.netns != 0 && !r.gone(a.BootID):
			return attach.Errorf(attach.CodeAgain, "device %s is still that of interface %s of %s", at.DeviceID, r.IfName, r.whose())
		}
		a.Log.Info("slot has another pod now, the old one's port is removed", zap.String("port", r.Port()), zap.String("device", at.DeviceID), zap.String("pod", r.whose()))
		if err := a.detach(ctx, r.Key, &r.Attachment); err != nil {
			return err
		}
	}
	return nil
}

// aloneWithMAC compares within a bridge and VLAN. Interfaces of one pod may have the same address: they
// may be a bond.
func (a *agent) aloneWithMAC(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment) error {
	if !asksForMAC(at) {
		return nil
	}
	rows, err := d.Select(ctx, model.InterfaceTable, includes(map[string]string{keyOwner: owner, keyMAC: at.MAC}))
	if err != nil {
		return err
	}
	for _, row := range rows {
		list, err := a.recordsWith(ctx, d, is("name", row.Row.(*model.Interface).Name))
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.ContainerID == at.ContainerID || r.Bridge != at.Bridge || r.VLAN != at.VLAN || r.gone(a.BootID) {
				continue
			}
			return attach.Errorf(attach.CodeAgain, "mac: %s is that of interface %s of %s already, on the same bridge and VLAN: frames would go to either", at.MAC, r.IfName, r.whose())
		}
	}
	return nil
}

// whose says in words whose an attachment is.
func (r *record) whose() string {
	if r.Pod.Name == "" {
		return "container " + r.ContainerID[:min(len(r.ContainerID), 12)]
	}
	return "pod " + r.Pod.Namespace + "/" + r.Pod.Name
}
