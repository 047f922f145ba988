package afxdp

import (
	"testing"

	"millrace/dataplane/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }
