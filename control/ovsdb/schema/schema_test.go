package schema

import (
	"regexp"
	"strings"
	"testing"
)

// TestShipped reads the schemas that come with the program.
func TestShipped(t *testing.T) {
	for _, text := range []string{OpenVSwitch, Millrace, Server} {
		d, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if d.Version == "" || len(d.Tables) == 0 {
			t.Errorf("schema %s has version %q and %d tables", d.Name, d.Version, len(d.Tables))
		}
	}
}

// FuzzUUID: what is read as a UUID is one to a regular expression too (RFC 7047 3.1), and is the same
// when it is written again.
func FuzzUUID(f *testing.F) {
	for _, s := range []string{string(ZeroUUID), ZeroUUID.String(), NewUUID().String(), "550E8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-44665544000", "550e8400-e29b-41d4-a716-44665544000g", "550e8400e29b-41d4-a716-4466554400000", ""} {
		f.Add(s)
	}
	form := regexp.MustCompile(`\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z`)
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := ParseUUID(s)
		if ok != form.MatchString(strings.ToLower(s)) || ok && (len(id) != 16 || id.String() != strings.ToLower(s)) {
			t.Fatalf("%q is %q, %v", s, id, ok)
		}
	})
}
