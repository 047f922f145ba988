package millrace_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLinks holds every relative link of the documents to a file that is there, and its
// fragment to a heading of that file.
func TestLinks(t *testing.T) {
	n := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(name)
		}
		if filepath.Ext(name) == ".md" {
			n += checkLinks(t, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Error("no document has a link: this tests nothing")
	}
}

// checkLinks reports the dead links of document name, and returns how many it has.
func checkLinks(t *testing.T, name string) (n int) {
	text, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
		return 0
	}
	for _, to := range links(string(text)) {
		n++
		file, fragment, _ := strings.Cut(to, "#")
		if file != "" {
			file = filepath.Join(filepath.Dir(name), file)
		} else {
			file = name
		}
		there, err := os.ReadFile(file)
		switch {
		case err != nil && fragment == "":
			if _, err = os.Stat(file); err != nil { // it may be a directory
				t.Errorf("%s: link to %s: %v", name, to, err)
			}
		case err != nil:
			t.Errorf("%s: link to %s: %v", name, to, err)
		case fragment != "" && !slices.Contains(anchors(string(there)), fragment):
			t.Errorf("%s: link to %s: no heading there has that fragment", name, to)
		}
	}
	return n
}

// links are the targets of the links in a document, but for those outside of the tree.
func links(text string) (list []string) {
	for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
		if !strings.Contains(m[1], "://") {
			list = append(list, m[1])
		}
	}
	return list
}

// anchors are the fragments that name the headings of a document, as GitHub makes them.
func anchors(text string) (list []string) {
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		words := strings.ToLower(link.ReplaceAllString(m[1], "]"))
		list = append(list, strings.ReplaceAll(notInAnchor.ReplaceAllString(words, ""), " ", "-"))
	}
	return list
}

var (
	fenced      = regexp.MustCompile("(?s)```.*?```")
	code        = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	link        = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading     = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// TestLinkReader checks the reader of links, which would otherwise find all documents in order.
func TestLinkReader(t *testing.T) {
	const text = "# The bridge's own port\n\n[a](b.md#x) `[c](d)` [e](https://f)\n\n```\n# no heading\n[g](h)\n```\n\n## `tap` and [i](j)\n![k](l.svg)\n"
	if got, want := links(text), []string{"b.md#x", "j", "l.svg"}; !slices.Equal(got, want) {
		t.Errorf("links %q, want %q", got, want)
	}
	if got, want := anchors(text), []string{"the-bridges-own-port", "tap-and-i"}; !slices.Equal(got, want) {
		t.Errorf("anchors %q, want %q", got, want)
	}
}
