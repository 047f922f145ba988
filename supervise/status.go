package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// StatusName is the file in the run directory in which a supervisor tells of
// itself and its children.
const StatusName = "run.json"

// A Status is a supervisor's account of itself. It is written anew whenever
// something in it changes, and removed at an orderly end.
type Status struct {
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Written  time.Time `json:"written"`
	DB       []string  `json:"db"`       // endpoints that control was given; the embedded database's if there is one
	Embedded bool      `json:"embedded"` // the database is a child of ours
	StateDir string    `json:"state_dir"`
	Children []Child   `json:"children"` // in the order in which they are started
}

// States of a child.
const (
	Starting = "starting" // it runs, and has not said that it is ready
	Running  = "running"
	Waiting  = "waiting" // it ended, and will be started again
)

// A Child is one process that is kept alive.
type Child struct {
	Name     string    `json:"name"` // database, dataplane, control, egress NAME
	PID      int       `json:"pid"`  // 0 while Waiting
	State    string    `json:"state"`
	Since    time.Time `json:"since"`    // when State became what it is
	Restarts int       `json:"restarts"` // by this supervisor
	LastExit string    `json:"last_exit,omitempty"`
	Adopted  bool      `json:"adopted,omitempty"` // another supervisor started it
}

// ReadStatus returns what the supervisor of a run directory last said. The
// error wraps fs.ErrNotExist if there is none. Whether the process still lives
// is for the caller to see.
func ReadStatus(runDir string) (Status, error) {
	var s Status
	path := filepath.Join(runDir, StatusName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("supervisor of %s has said nothing: %w", runDir, err)
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// write puts s in place of what the run directory has, at once.
func (s Status) write(runDir string) error {
	path := filepath.Join(runDir, StatusName)
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.WriteFile(path+".new", append(b, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// forget removes what the run directory has.
func forget(runDir string) error {
	if err := os.Remove(filepath.Join(runDir, StatusName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the supervisor's status: %w", err)
	}
	return nil
}
