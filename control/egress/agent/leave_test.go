package agent

import (
	"os"
	"path/filepath"
	"testing"

	"millrace/control/egress/konntest"
)

// TestNoStreams: an agent to which no server can send requests is not ready, though its connections live.
func TestNoStreams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, token := range []string{"old", "new"} {
		if err := os.WriteFile(file+token, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bears := func(token string) {
		if err := os.Rename(file+token, file); err != nil {
			t.Fatal(err)
		}
	}
	bears("old")
	s := &konntest.Server{ID: "s1", Token: "old"}
	r := start(t, func(c *Config) { c.Files.Token, c.Links, c.Idle = file, 1, 1 }, s)
	eventually(t, "it is ready", func() bool { return r.Status().Ready })
	since := r.Status().Links[0].Since
	s.SetToken("new")
	if err := probe(t, ways[1], s, listen(t, echo)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not ready", func() bool { return !r.Status().Ready })
	bears("new")
	eventually(t, "it is ready again", func() bool { return r.Status().Ready })
	if links := r.Status().Links; len(links) != 1 || !links[0].Since.Equal(since) {
		t.Errorf("it has another connection: %+v", links)
	}
}
