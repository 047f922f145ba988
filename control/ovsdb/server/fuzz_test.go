package server

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"millrace/control/ovsdb/schema"
)

// FuzzStream feeds bytes to a session. Whatever they are, the server answers
// others afterwards.
func FuzzStream(f *testing.F) {
	for _, s := range []string{
		`{"method":"echo","params":[],"id":1}`,
		`{"method":"list_dbs","params":[],"id":"a"}{"method":"get_schema","params":["_Server"],"id":2}`,
		`{"method":"transact","params":["Open_vSwitch",{"op":"insert","table":"QoS","row":{"type":"x"}},{"op":"select","table":"QoS","where":[]}],"id":3}`,
		`{"method":"monitor","params":["Open_vSwitch",null,{"QoS":[{"columns":["type"],"select":{"initial":false}}]}],"id":4}`,
		`{"method":"monitor_cond_since","params":["Open_vSwitch",[],{"QoS":[{"where":[["type","==","x"]]}]},"0"],"id":5}{"method":"monitor_cond_change","params":[[],1,{"QoS":{"where":[false]}}],"id":6}`,
		`{"method":"lock","params":["l"],"id":7}{"method":"steal","params":["l"],"id":8}{"method":"unlock","params":["l"],"id":9}`,
		`{"method":"transact","params":["Open_vSwitch",{"op":"wait","table":"QoS","where":[],"columns":["type"],"until":"!=","rows":[]}],"id":1}{"method":"cancel","params":[1],"id":null}`,
		`{"id":null,"method":"transact","params":null}`, `[]`, `{`, `{"method":1}`, "\x00", `{"a":"` + "\xff" + `"}`,
	} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	srv, err := Open(Config{Databases: []Database{{Path: filepath.Join(dir, "db"), Schema: schema.OpenVSwitch}}, MaxMessage: 1 << 16, Probe: 10 * time.Second})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- srv.Serve(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, srv.Close()); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, theirs := net.Pipe()
		srv.add(theirs, nil)
		drained := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, ours)
			close(drained)
		}()
		_ = ours.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, _ = ours.Write(in) // the server may hang up
		ours.Close()
		<-drained
		deadline, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		if _, err := srv.Stats(deadline); err != nil {
			t.Fatal(err)
		}
	})
}
