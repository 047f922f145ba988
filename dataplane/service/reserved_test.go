package service

import (
	"path/filepath"
	"testing"
)

// TestReserved: no port has its socket where the switch has a file, now or
// while it writes it.
func TestReserved(t *testing.T) {
	d := &Dir{path: "/run/d"}
	for _, name := range []string{
		"dataplane.sock", "dataplane.lock", "ports.json", "run.json", "run.lock", "control.json", "control.lock",
		"desired.json", "db.sock", "conf.db", ".conf.db.~lock~", "run.json" + newSuffix,
	} {
		for _, path := range []string{name, filepath.Join(d.path, name), filepath.Join(d.path, "..", "d", name)} {
			if got, err := d.resolve(path); err == nil {
				t.Errorf("%s is taken for %s", path, got)
			}
		}
	}
	if got, err := d.resolve("p0"); err != nil || got != "/run/d/p0" {
		t.Errorf("p0: %s, %v", got, err)
	}
}
