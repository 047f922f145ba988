package bridge

import (
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"millrace/control/ovsdb/model"
)

// socketPathMax is the longest path of a Unix socket in bytes (unix(7)).
const socketPathMax = 107

// A Policy says which sockets rows may name, and whether bridges have devices.
type Policy struct {
	RunDir string   // absolute; relative paths stay in it
	Dirs   []string // absolute paths must be below one of these; none: they may be anywhere

	// Follow returns a directory's path without symbolic links, and an error
	// if there is no such directory. With it, a path that is confined to a
	// directory does not leave it by a link either. Nil: links are not looked
	// at.
	Follow func(dir string) (string, error)

	// Agent says what is wrong with the options of an egress port's agent. Nil:
	// there are no egress ports.
	Agent func(options map[string]string) []error

	Local     bool   // a bridge's own port is a device, if its row does not say
	NoDevices string // why there can be none, in words; empty: there can
}

// socket returns the absolute path of the socket of a vhost-user row. dir is
// vhost-sock-dir: where listening ports are, below the run directory.
func (p Policy) socket(row *model.Interface, dir string) (string, error) {
	path, given := row.Options["vhost-server-path"]
	switch {
	case !given && row.Type == TypeVhostClient:
		return "", bad("vhost-server-path is missing: it names the socket to connect to")
	case !given:
		path = filepath.Join(dir, row.Name)
		if dir != "" && !filepath.IsLocal(dir) {
			return "", bad("vhost-sock-dir=%q leaves the run directory", short(dir))
		}
	}
	return p.resolve(path)
}

// resolve makes a path absolute and holds it to the policy.
func (p Policy) resolve(path string) (string, error) {
	switch {
	case path == "" || strings.HasSuffix(path, "/"):
		return "", bad("vhost-server-path=%q names no socket", short(path))
	case strings.ContainsFunc(path, unicode.IsControl):
		return "", bad("vhost-server-path=%q has a control character", short(path))
	case slices.Contains(strings.Split(path, "/"), ".."):
		return "", bad("vhost-server-path=%q has a .. in it: write the path without", short(path))
	}
	abs, roots := filepath.Clean(path), p.Dirs
	if !filepath.IsAbs(path) {
		abs, roots = filepath.Join(p.RunDir, path), []string{p.RunDir}
	}
	if len(abs) > socketPathMax {
		return "", bad("vhost-server-path=%q has %d bytes, a socket's path at most %d", short(path), len(abs), socketPathMax)
	}
	if len(roots) == 0 {
		return abs, nil
	}
	return abs, p.confined(abs, roots)
}

// confined says how a path leaves all of these directories.
func (p Policy) confined(abs string, roots []string) error {
	below := func(dir string) bool {
		return slices.ContainsFunc(roots, func(root string) bool {
			rel, err := filepath.Rel(root, dir)
			return err == nil && filepath.IsLocal(rel)
		})
	}
	dir := filepath.Dir(abs)
	if !below(dir) {
		return bad("vhost-server-path=%q is not below %s", short(abs), strings.Join(roots, ", "))
	}
	if p.Follow == nil {
		return nil
	}
	target, err := p.Follow(dir)
	if err != nil {
		return nil // nothing there to follow
	}
	var followed []string
	for _, root := range roots {
		if r, err := p.Follow(root); err == nil {
			followed = append(followed, r)
		}
	}
	roots = followed
	if !below(target) {
		return bad("vhost-server-path=%q leaves its directory by a symbolic link to %s", short(abs), short(target))
	}
	return nil
}
