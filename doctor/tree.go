package doctor

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// one is a list of one finding, which format and args make.
func one(g Grade, remedy, format string, args ...any) []Finding {
	return []Finding{{Grade: g, What: fmt.Sprintf(format, args...), Remedy: remedy}}
}

// text is a file without the white space around it; empty if it cannot be read.
func (p *Patient) text(format string, args ...any) string {
	b, err := fs.ReadFile(p.Tree, fmt.Sprintf(format, args...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// exists reports whether there is a file.
func (p *Patient) exists(name string) bool {
	_, err := fs.Stat(p.Tree, name)
	return err == nil
}

// names are those in a directory; none if it cannot be read.
func (p *Patient) names(dir string) []string {
	entries, err := fs.ReadDir(p.Tree, dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// field is the value of a line "key: value" of a file of /proc.
func field(text, key string) (string, bool) {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// list reads a list of numbers as the kernel writes it, such as 0-3,8. Parts that it cannot
// understand, and what is beyond listMax, are left out.
func list(s string) []int {
	var all []int
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		from, err := strconv.Atoi(lo)
		to := from
		if err == nil && isRange {
			to, err = strconv.Atoi(hi)
		}
		if err != nil || from < 0 || to > listMax {
			continue
		}
		for n := from; n <= to; n++ {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

const listMax = 8191

// numbers are ints with commas between them.
func numbers(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

// cpus are "CPU 3" or "CPUs 3,4".
func cpus(list []int) string {
	if len(list) == 1 {
		return "CPU " + numbers(list)
	}
	return "CPUs " + numbers(list)
}

// process is the directory of the dataplane in /proc, or of ourselves without one: it is
// started with what we have.
func (p *Patient) process() (dir, whose string) {
	if p.Switch != nil && p.exists(path.Join("proc", strconv.Itoa(p.Switch.PID))) {
		return path.Join("proc", strconv.Itoa(p.Switch.PID)), "the dataplane"
	}
	return "proc/self", "this process (no dataplane answers)"
}

// link is where a symbolic link points; empty if that cannot be read.
func (p *Patient) link(format string, args ...any) string {
	s, err := fs.ReadLink(p.Tree, fmt.Sprintf(format, args...))
	if err != nil {
		return ""
	}
	return s
}
