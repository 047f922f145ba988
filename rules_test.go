package millrace_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is the import path of the root.
const module = "millrace"

// mayImport says, for each package of the module, which others it may import.
// An entry ending in /* stands for every package below it; * for all. A package
// that no entry names fails the test.
var mayImport = map[string][]string{
	".":                       nil,
	"cmd/millrace":            {"*"},
	"control":                 {"control/*", "dataplane/api", "dataplane/flowapi", "dataplane/sys", "flowtable"},
	"control/bridge":          {"control/ovsdb/model"},
	"cmd/millrace-cni":        {"control/cni"},
	"control/cni":             {"control/cni/attach", "dataplane/sys"},
	"control/cni/agent":       {"control/bridge", "control/cni/attach", "control/ovsdb", "control/ovsdb/model"},
	"control/cni/attach":      nil,
	"control/cni/slots":       {"control/cni", "control/cni/agent", "control/cni/attach"},
	"control/egress/admin":    {"control/egress/agent"},
	"control/egress/agent":    {"control/egress/policy"},
	"control/egress/kernel":   {"dataplane/sys"},
	"control/egress/leases":   nil,
	"control/egress/netstack": {"dataplane/packet", "dataplane/sys", "vhost/frontend", "vhost/message", "vhost/virtq"},
	"control/egress/policy":   nil,
	"control/egress/konntest": nil,
	"control/flows":           {"control/logical", "control/ovsdb/flowmodel", "flowtable"},
	"control/logical":         nil,
	"control/ovsdb":           {"control/ovsdb/jsonval"},
	"control/ovsdb/*":         {"control/ovsdb/*"},
	"control/ovsdb/engine":    {"control/ovsdb/jsonval", "control/ovsdb/schema"},
	"control/ovsdb/jsonval":   nil,
	"control/ovsdb/schema":    {"control/ovsdb/jsonval"},
	"control/ovsdb/server":    {"control/ovsdb/engine", "control/ovsdb/jsonval", "control/ovsdb/schema", "control/ovsdb/storage"},
	"control/ovsdb/storage":   nil,
	"dataplane":               {"dataplane/packet", "dataplane/sys", "dataplane/fdb", "dataplane/parse", "dataplane/conntrack", "dataplane/edit", "dataplane/reply", "dataplane/tunnel", "flowtable", "flowtable/flowcache"},
	"dataplane/afxdp":         {"dataplane/packet", "dataplane/sys"},
	"dataplane/api":           nil,
	"dataplane/conntrack":     {"dataplane/parse", "flowtable/prefetch"},
	"dataplane/edit":          {"dataplane/packet", "dataplane/parse", "flowtable"},
	"dataplane/fdb":           nil,
	"dataplane/flowapi":       {"dataplane/api", "flowtable"},
	"dataplane/packet":        nil,
	"dataplane/parse":         {"dataplane/packet", "flowtable"},
	"dataplane/reply":         {"dataplane/parse", "flowtable"},
	"dataplane/service":       {"dataplane", "dataplane/api", "dataplane/conntrack", "dataplane/flowapi", "dataplane/packet", "dataplane/sys", "flowtable"},
	"dataplane/sys":           nil,
	"dataplane/tap":           {"dataplane/packet", "dataplane/sys"},
	"dataplane/tunnel":        {"dataplane/packet"},
	"dataplane/underlay":      {"dataplane", "dataplane/tunnel"},
	"doctor":                  nil,
	"flowtable":               {"flowtable/prefetch"},
	"flowtable/*":             {"flowtable", "flowtable/prefetch"},
	"flowtable/prefetch":      nil,
	"hack/*":                  nil,
	"perf":                    {"vhost", "vhost/*", "dataplane/packet", "dataplane/sys"},
	"perf/*":                  {"perf", "perf/*", "vhost", "vhost/*", "dataplane/packet", "dataplane/sys"},
	"perf/bench":              {"control/egress/kernel", "control/egress/konntest", "control/egress/netstack", "perf", "perf/*", "vhost", "vhost/*", "dataplane/packet", "dataplane/sys", "dataplane/api"},
	"supervise":               nil,
	"vhost":                   {"vhost/*", "dataplane/packet", "dataplane/sys"},
	"vhost/frontend":          {"vhost/guestmem", "vhost/message", "vhost/virtq", "dataplane/packet", "dataplane/sys"},
	"vhost/guestmem":          {"dataplane/sys"},
	"vhost/message":           nil,
	"vhost/virtq":             {"vhost/guestmem", "dataplane/packet", "dataplane/sys"},

	// Tunnels, by themselves because their names are long.
	"control/egress/l3":        {"control/egress/l3/packet"},
	"control/egress/l3/guard":  {"control/egress/l3", "control/egress/l3/packet", "control/egress/policy"},
	"control/egress/l3/kernel": {"dataplane/sys"},
	"control/egress/l3/nic":    {"control/egress/l3/packet"},
	"control/egress/l3/packet": nil,
	"control/egress/l3/roster": {"control/egress/l3"},
}

// allowed returns what package pkg may import, and whether any rule names it.
// A package for tests (its name ends in test) may import all that is neither
// cmd nor perf.
func allowed(pkg string) (deps []string, known bool) {
	if deps, known = mayImport[pkg]; known {
		return deps, true
	}
	for dir := path.Dir(pkg); dir != "."; dir = path.Dir(dir) {
		if deps, known = mayImport[dir+"/*"]; known {
			return deps, true
		}
	}
	if forTests(pkg) {
		return []string{"dataplane", "dataplane/*", "flowtable", "flowtable/*", "vhost", "vhost/*", "waittest"}, true
	}
	return nil, false
}

// matches reports whether pattern, an entry of a rule, names package dep.
func matches(pattern, dep string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(dep, prefix)
	}
	return pattern == dep
}

// forTests reports whether pkg exists for tests only, by its name.
func forTests(pkg string) bool { return strings.HasSuffix(pkg, "test") }

// importProblem says what is wrong with package pkg importing dep, both
// relative to the module, or returns "".
func importProblem(pkg, dep string) string {
	deps, known := allowed(pkg)
	switch {
	case !known:
		return "package " + pkg + " has no import rule; add one to mayImport in rules_test.go"
	case forTests(dep) && !forTests(pkg) && !strings.HasPrefix(pkg+"/", "perf/"):
		return pkg + " may not import " + dep + ", which is for tests and perf"
	case !slices.ContainsFunc(deps, func(p string) bool { return matches(p, dep) }):
		return pkg + " may not import " + dep
	}
	return ""
}

// TestRules holds the code to mayImport, unsafe to files named for it, and
// keeps out cgo and init functions. Test files may import what they like.
func TestRules(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(name)
		}
		if filepath.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") {
			checkFile(t, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// skipDir returns fs.SkipDir for directories that the go tool ignores.
func skipDir(name string) error {
	base := filepath.Base(name)
	if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "bin") {
		return fs.SkipDir
	}
	return nil
}

// checkFile reports what file name, which is not a test, does against the rules.
func checkFile(t *testing.T, name string) {
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return
	}
	pkg := filepath.ToSlash(filepath.Dir(name))
	if _, known := allowed(pkg); !known {
		t.Errorf("%s: %s", name, importProblem(pkg, ""))
		return
	}
	generated := ast.IsGenerated(f)
	for _, imp := range f.Imports {
		dep := strings.Trim(imp.Path.Value, `"`)
		switch {
		case dep == "C":
			t.Errorf("%s: no cgo", name)
		case dep == "unsafe" && !generated && !strings.HasSuffix(name, "_unsafe.go"):
			t.Errorf("%s: unsafe belongs in a file named *_unsafe.go", name)
		case dep == "unsafe" && !generated && !saysWhySafe(f):
			t.Errorf("%s: no SAFETY: comment says why its use of unsafe is sound", name)
		}
		if ours, ok := strings.CutPrefix(dep, module+"/"); ok {
			if problem := importProblem(pkg, ours); problem != "" {
				t.Errorf("%s: %s", name, problem)
			}
		}
	}
	if !generated && hasInit(f) {
		t.Errorf("%s: no init functions; cmd wires", name)
	}
}

// saysWhySafe reports whether a comment of f holds the word SAFETY:.
func saysWhySafe(f *ast.File) bool {
	return slices.ContainsFunc(f.Comments, func(c *ast.CommentGroup) bool {
		return strings.Contains(c.Text(), "SAFETY:")
	})
}

// hasInit reports whether f declares an init function.
func hasInit(f *ast.File) bool {
	return slices.ContainsFunc(f.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		return ok && fn.Recv == nil && fn.Name.Name == "init"
	})
}

// TestImportProblem checks the rules' reader, which would otherwise pass all
// code when it understood a pattern wrongly.
func TestImportProblem(t *testing.T) {
	tests := []struct {
		name, pkg, dep string
		ok             bool
	}{
		{"listed", "vhost/virtq", "vhost/guestmem", true},
		{"not listed", "vhost/virtq", "dataplane", false},
		{"leaf", "flowtable", "dataplane/packet", false},
		{"below a star", "vhost", "vhost/message", true},
		{"star does not name its parent", "vhost/frontend", "vhost", false},
		{"cmd takes all", "cmd/millrace", "perf/peers", true},
		{"nobody else takes perf", "dataplane", "perf", false},
		{"nobody takes cmd", "perf/bench", "cmd/millrace", false},
		{"package under perf", "perf/bench", "perf/peers", true},
		{"test package from perf", "perf", "vhost/virtqtest", true},
		{"test package from a product package", "vhost", "vhost/virtqtest", false},
		{"test package takes its parent", "vhost/virtqtest", "vhost/virtq", true},
		{"unknown package", "surprise", "flowtable", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := importProblem(tt.pkg, tt.dep); (got == "") != tt.ok {
				t.Errorf("%s imports %s: %q, want allowed: %v", tt.pkg, tt.dep, got, tt.ok)
			}
		})
	}
}
