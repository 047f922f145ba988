package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A note is a file in the run directory that says of an attachment that it is to go: the plugin leaves one of a pod that has gone
// while there was no agent, and the agent itself before it removes what says what the attachment was. It has all that is known
// of the attachment; notes of older plugins have its key. The agent carries notes out when it is back.

// notesDir is the directory of notes in the run directory.
const notesDir = "detached"

func notePath(runDir string, k Key) string {
	return filepath.Join(runDir, notesDir, k.Port()+".json")
}

// Note leaves a note, also where there is no run directory.
func Note(runDir string, at *Attachment) error {
	path := notePath(runDir, at.Key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("leave a note for the switch: %w", err)
	}
	text, err := json.Marshal(at)
	if err == nil {
		err = os.WriteFile(path+hidden, text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+hidden, path)
	}
	if err != nil {
		return fmt.Errorf("leave a note for the switch: %w", err)
	}
	return nil
}

// hidden ends the name of a note that is being written.
const hidden = ".new"

// Forget removes the note about a key, if there is one, and what a plugin that was killed has left of one.
func Forget(runDir string, k Key) error {
	path := notePath(runDir, k)
	var errs []error
	for _, name := range []string{path, path + hidden} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Noted reports whether there is a note about a key.
func Noted(runDir string, k Key) bool {
	_, err := os.Lstat(notePath(runDir, k))
	return err == nil
}

// Notes returns what there are notes about. The error is about those that make no
// sense, which are removed.
func Notes(runDir string) ([]Attachment, error) {
	names, err := filepath.Glob(filepath.Join(runDir, notesDir, "*.json"))
	var list []Attachment
	for _, name := range names {
		at, bad := readNote(name)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("note %s: %w", name, bad), os.Remove(name))
			continue
		}
		list = append(list, at)
	}
	return list, err
}

func readNote(name string) (at Attachment, err error) {
	text, err := os.ReadFile(name)
	if err == nil {
		err = Decode(text, &at)
	}
	if err == nil {
		err = at.CheckNames()
	}
	if err == nil && at.Port() != strings.TrimSuffix(filepath.Base(name), ".json") {
		err = errors.New("it is about another attachment than its name")
	}
	return at, err
}
