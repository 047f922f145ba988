package main

import (
	"encoding/json"
	"testing"

	"millrace/dataplane/api"
)

// TestMapJSON: a port with options, as each of a pod's has, is an object like others, the same every time.
func TestMapJSON(t *testing.T) {
	for range 20 {
		text, err := json.Marshal(toJSON(&api.PortSpec{Options: map[string]string{"persist": "true", "netns": `/run/netns/"a"`, "up": "true"}}))
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ Options json.RawMessage }
		if err := json.Unmarshal(text, &v); err != nil || string(v.Options) != `{"netns":"/run/netns/\"a\"","persist":"true","up":"true"}` {
			t.Fatalf("%s, %v", text, err)
		}
	}
}
