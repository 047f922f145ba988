package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"millrace/control/bridge"
)

// Files of control.
const (
	desiredName = "desired.json" // in the state directory: what was wanted last
	statusName  = "control.json" // in the run directory: Status
)

// desiredVersion is the version of the layout of desired.json.
const desiredVersion = 1

// desired is what was wanted last, for a start without the database.
type desired struct {
	Version int             `json:"version"`
	Ports   []bridge.Port   `json:"ports"`            // by name
	Bridges []bridge.Bridge `json:"bridges"`          // by name
	Egress  []bridge.Egress `json:"egress,omitempty"` // by name
	CPUs    []int           `json:"cpus,omitempty"`
	Balance bridge.Balance  `json:"balance,omitzero"`
}

func newDesired(s *bridge.State) desired {
	d := desired{Version: desiredVersion, CPUs: s.CPUs, Balance: s.Balance}
	for _, name := range slices.Sorted(maps.Keys(s.Ports)) {
		d.Ports = append(d.Ports, s.Ports[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.Egress)) {
		d.Egress = append(d.Egress, s.Egress[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.Bridges)) {
		d.Bridges = append(d.Bridges, s.Bridges[name])
	}
	return d
}

// state is d as From would have returned it, without rows to tell anything.
func (d desired) state() *bridge.State {
	s := &bridge.State{Ports: map[string]bridge.Port{}, Bridges: map[string]bridge.Bridge{}, Egress: map[string]bridge.Egress{}, Stats: bridge.StatsDefault, CPUs: d.CPUs, Balance: d.Balance}
	for _, p := range d.Ports {
		s.Ports[p.Name] = p
	}
	for _, e := range d.Egress {
		s.Egress[e.Name] = e
	}
	for _, b := range d.Bridges {
		s.Bridges[b.Name] = b
	}
	return s
}

// readDesired reads what was wanted last. The error wraps fs.ErrNotExist if
// nothing was yet.
func readDesired(dir string) (desired, error) {
	var d desired
	path := filepath.Join(dir, desiredName)
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err == nil && d.Version != desiredVersion {
		err = fmt.Errorf("version %d of its layout is not %d", d.Version, desiredVersion)
	}
	if err != nil {
		return desired{}, fmt.Errorf("read %s: %w", path, err)
	}
	return d, nil
}

// writeJSON puts v in place of a file, at once. If durable, it is on the disk
// when writeJSON returns.
func writeJSON(dir, name string, v any, durable bool) error {
	path := filepath.Join(dir, name)
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	tmp, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(append(b, '\n'))
	if err == nil && durable {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// ReadStatus returns what the control process of a run directory last said of
// itself. The error wraps fs.ErrNotExist if it has said nothing.
func ReadStatus(runDir string) (Status, error) {
	var s Status
	path := filepath.Join(runDir, statusName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("control of %s has said nothing: %w", runDir, err)
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}
