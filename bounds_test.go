package millrace

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// innerLoops are functions, by package, with loops over the frames of a batch that have
// no bounds check: it would be a branch for each frame, and the benchmarks of these
// packages show it. What is checked once for a batch is in other functions.
var innerLoops = map[string][]string{
	"flowtable/flowcache": {
		"Cache.beginNarrow", "Cache.hashNarrow", "Cache.seekNarrow", "Cache.compareNarrow", "compareFirstGeneric", "narrowEntry.differs", "Cache.settle",
	},
	"dataplane/parse": {"common", "ethernet", "ipHead.total", "ipHead.tail", "ipHead.store", "ipHead.odd"},
	"dataplane":       {"worker.notFound"},
}

// TestNoBoundsChecks has the compiler say where it checks bounds, and finds it to do so
// nowhere in innerLoops.
func TestNoBoundsChecks(t *testing.T) {
	for pkg, names := range innerLoops {
		t.Run(pkg, func(t *testing.T) {
			spans := functionSpans(t, pkg)
			for _, name := range names {
				if len(spans[name]) == 0 {
					t.Errorf("there is no function %s", name)
				}
			}
			checks := boundsChecks(t, pkg)
			if len(checks) == 0 {
				t.Error("the compiler tells of no check at all: this tests nothing")
			}
			for _, at := range checks {
				for _, name := range names {
					for _, s := range spans[name] {
						if s.file == at.file && s.first <= at.first && at.first <= s.last {
							t.Errorf("%s checks a bound at %s:%d", name, at.file, at.first)
						}
					}
				}
			}
		})
	}
}

// A lineSpan is some lines of a file.
type lineSpan struct {
	file        string
	first, last int
}

// functionSpans returns where the functions of a package stand, methods as Type.name.
func functionSpans(t *testing.T, pkg string) map[string][]lineSpan {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(pkg, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of %s: %v", pkg, err)
	}
	spans := map[string][]lineSpan{}
	for _, name := range files {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				key := receiver(fn) + fn.Name.Name
				spans[key] = append(spans[key], lineSpan{name, set.Position(fn.Pos()).Line, set.Position(fn.End()).Line})
			}
		}
	}
	return spans
}

// receiver returns the type of a method with a dot, or nothing.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	typ := fn.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "."
	}
	return ""
}

// boundsChecks compiles a package, and returns the lines in which bounds are checked.
func boundsChecks(t *testing.T, pkg string) (out []lineSpan) {
	t.Helper()
	said, err := exec.Command("go", "build", "-gcflags=-d=ssa/check_bce", "./"+pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("compile %s: %v\n%s", pkg, err, said)
	}
	lines := bufio.NewScanner(bytes.NewReader(said))
	for lines.Scan() {
		// file:line:column: Found IsInBounds
		f := strings.SplitN(lines.Text(), ":", 4)
		if len(f) != 4 || !strings.Contains(f[3], "InBounds") {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		out = append(out, lineSpan{filepath.Clean(f[0]), n, n})
	}
	return out
}
