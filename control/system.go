package control

import (
	"os"
	"strings"
)

// A system is what Open_vSwitch.system_type and system_version say: what the
// host runs. ovs-ctl writes the same.
type system struct {
	kind    string // such as debian
	version string // such as 12; may be empty
}

// readSystem reads the first of some files that is there, in the form of
// os-release(5).
func readSystem(paths ...string) system {
	s := system{kind: "unknown"}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch value = strings.Trim(value, `"'`); key {
			case "ID":
				s.kind = value
			case "VERSION_ID":
				s.version = value
			}
		}
		break
	}
	return s
}

// firstOf is a, or b if there is no a: what somebody else has written stays.
func firstOf(a, b *string) *string {
	if a != nil {
		return a
	}
	return b
}
