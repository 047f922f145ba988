package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"millrace/dataplane/sys"
)

// ErrInUse says that another control process serves the run directory.
var ErrInUse = errors.New("run directory has a control process")

// lockName is the file in the run directory that a control process locks.
const lockName = "control.lock"

// takeLock locks the run directory for one control process.
func takeLock(dir string) (*os.File, error) {
	f, err := sys.LockFile(filepath.Join(dir, lockName))
	if held := (*sys.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("%w: %w: stop it, or choose another --run-dir", ErrInUse, held)
	}
	return f, err
}
