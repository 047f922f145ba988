package server_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestPythonIDL drives the server with the IDL of python3-openvswitch.
func TestPythonIDL(t *testing.T) {
	python := pythonWithOVS(t)
	_, socket, _ := serve(t, t.TempDir(), nil)
	if got := run(t, python, "testdata/idl.py", "unix:"+socket, schemaFile(t)); strings.TrimSpace(got) != "ok" {
		t.Errorf("idl.py: %s", got)
	}
}

// pythonWithOVS returns a Python that has the module ovs.
func pythonWithOVS(t *testing.T) string {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import ovs.db.idl").Run() == nil {
			return python
		}
	}
	t.Skip("needs Python's ovs module: apt-get install python3-openvswitch")
	return ""
}
