package schema

import "testing"

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
