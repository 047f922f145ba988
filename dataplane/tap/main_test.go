package tap

import (
	"os"
	"testing"

	"millrace/dataplane/tap/taptest"
)

// TestMain runs the tests in a network namespace of their own. In a process that
// TestKilled has started, it holds a port.
func TestMain(m *testing.M) {
	if netns := os.Getenv(holder); netns != "" {
		holdPort(netns)
	}
	taptest.Main(m)
}
