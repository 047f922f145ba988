package slots

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	kubelet "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"millrace/control/cni"
	"millrace/control/cni/agent"
)

// environment is the variable that has the IDs of a container's slots, with commas
// between them.
const environment = "MILLRACE_SLOTS"

// allocate prepares slots for a container: each is a directory that is empty, at the same
// place in the container whoever it is.
func (p *Plugin) allocate(ids []string) (*kubelet.ContainerAllocateResponse, error) {
	known := p.ids()
	reply := &kubelet.ContainerAllocateResponse{Envs: map[string]string{environment: strings.Join(ids, ",")}}
	for _, id := range ids {
		if !slices.Contains(known, id) {
			return nil, fmt.Errorf("resource %s has no device %.80q", p.Resource(), id)
		}
		if err := p.empty(id); err != nil {
			return nil, fmt.Errorf("slot %s: %w", id, err)
		}
		if err := p.writeInfo(id); err != nil {
			return nil, fmt.Errorf("slot %s: %w", id, err)
		}
		reply.Mounts = append(reply.Mounts, &kubelet.Mount{ContainerPath: path.Join(agent.SlotMount, id), HostPath: filepath.Join(p.RunDir, agent.SlotsDir, id)})
	}
	return reply, nil
}

// empty makes a slot's directory, and removes what its last pod has left.
func (p *Plugin) empty(id string) error {
	if err := agent.MakeSlot(p.RunDir, id); err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Join(p.RunDir, agent.SlotsDir, id))
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, root.RemoveAll(e.Name()))
	}
	return errors.Join(errs...)
}

// infoPath is where Multus looks for what is told of a slot.
func (p *Plugin) infoPath(id string) string {
	return filepath.Join(p.InfoDir, strings.ReplaceAll(p.Resource(), "/", "-")+"-"+id+"-device.json")
}

// writeInfo tells Multus of a slot. The CNI plugin says it again, when it knows the
// network's mode.
func (p *Plugin) writeInfo(id string) error {
	text, err := cni.DeviceInfo(p.Role, path.Join(agent.SlotMount, id, agent.SocketName))
	if err != nil {
		return err
	}
	return cni.WriteFile(p.infoPath(id), text)
}

// removeInfo takes back what was told.
func (p *Plugin) removeInfo() error {
	var errs []error
	for _, id := range p.ids() {
		errs = append(errs, cni.RemoveFile(p.infoPath(id)))
	}
	return errors.Join(errs...)
}
