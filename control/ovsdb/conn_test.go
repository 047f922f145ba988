package ovsdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"millrace/control/ovsdb/model"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// TestEndpoints are read as in ovsdb(7).
func TestEndpoints(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"unix:/run/openvswitch/db.sock", "unix:/run/openvswitch/db.sock"},
		{"tcp:127.0.0.1:6640", "tcp:127.0.0.1:6640"},
		{"tcp:127.0.0.1", "tcp:127.0.0.1:6640"},
		{"ssl:[::1]:6641", "ssl:[::1]:6641"},
		{"ssl:[::1]", "ssl:[::1]:6640"},
		{"ssl:db.example", "ssl:db.example:6640"},
		{"unix:", ""}, {"/run/db.sock", ""}, {"", ""}, {"http://x", ""}, {"tcp:", ""}, {"tcp::6640", ""}, {"tcp:h:", ""}, {"tcp:h:0", ""}, {"ssl:h:65536", ""}, {"tcp:h:http", ""}, {"tcp:a]b", ""}, {"ptcp:6640", ""},
	} {
		e, err := ParseEndpoint(tt.in)
		switch {
		case tt.want == "" && !errors.Is(err, ErrEndpoint):
			t.Errorf("%q: %v, %v", tt.in, e, err)
		case tt.want != "" && (err != nil || e.String() != tt.want):
			t.Errorf("%q: %v, %v", tt.in, e, err)
		}
	}
}

// A fakeServer answers lock and monitor_cond, and then does what serve says.
type fakeServer struct {
	path  string
	serve func(net.Conn)
}

func (f fakeServer) listen(t *testing.T) { acceptAll(t, f.path, f.accept) }

// acceptAll has serve work on each connection to path, until the test ends. It closes them.
func acceptAll(t *testing.T, path string, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

func (f fakeServer) accept(c net.Conn) {
	dec := json.NewDecoder(bufio.NewReader(c))
	for {
		var m message
		if dec.Decode(&m) != nil {
			return
		}
		switch m.Method {
		case "lock":
			fmt.Fprintf(c, `{"id":%s,"result":{"locked":true},"error":null}`, m.ID)
		case "monitor_cond":
			fmt.Fprintf(c, `{"id":%s,"result":{"Bridge":{"u":{"initial":{"name":"br0"}}}},"error":null}`, m.ID)
			f.serve(c)
			return
		}
	}
}

func start(t *testing.T, endpoints ...string) *Client {
	t.Helper()
	c, err := New(Config{Endpoints: endpoints, Schema: model.Schema(), Lock: "l", Tables: []Table{{Name: model.BridgeTable, Row: &model.Bridge{}, Watch: []string{"name"}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return c
}

// next waits until ok of a batch.
func next(t *testing.T, c *Client, what string, ok func(Batch) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case <-c.Ready():
		case <-late:
			t.Fatalf("not in %v: %s", patience, what)
		}
		if ok(c.Take()) {
			return
		}
	}
}

// TestSecondEndpoint: an endpoint that is not there is passed over, and one
// that hangs up is followed by the next, which has all rows again.
func TestSecondEndpoint(t *testing.T) {
	dir := t.TempDir()
	hangsUp := fakeServer{filepath.Join(dir, "a"), func(net.Conn) {}}
	stays := fakeServer{filepath.Join(dir, "b"), func(c net.Conn) { io.Copy(io.Discard, c) }} // until the client ends
	hangsUp.listen(t)
	stays.listen(t)
	c := start(t, "unix:"+dir+"/none", "unix:"+hangsUp.path, "unix:"+stays.path)
	next(t, c, "rows of the second", func(b Batch) bool { return b.Reset && len(b.Changes) == 1 && c.Endpoint() == "unix:"+stays.path })
	if b := c.Take(); !b.Connected || !b.Owner || c.Err() != nil {
		t.Errorf("%+v, %v", b, c.Err())
	}
}

// TestOrder: a reset that is not taken yet and an update come as one batch;
// a row that came and went is told of as gone.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	told := make(chan struct{})
	s := fakeServer{filepath.Join(dir, "a"), func(c net.Conn) {
		for _, u := range []string{`{"u":{"delete":null}}`, `{"v":{"insert":{"name":"br1"}}}`, `{"v":{"modify":{"flood_vlans":5}}}`} {
			fmt.Fprintf(c, `{"method":"update2","params":["millrace",{"Bridge":%s}],"id":null}`, u)
		}
		fmt.Fprint(c, `{"method":"echo","params":["x"],"id":"e"}`)
		var m message
		if json.NewDecoder(c).Decode(&m) == nil && string(m.Result) == `["x"]` && string(m.ID) == `"e"` {
			close(told) // the client has read all before it
		}
		c.Read(make([]byte, 1))
	}}
	s.listen(t)
	c := start(t, "unix:"+s.path)
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("no answer to an echo")
	}
	b := c.Take()
	if !b.Reset || len(b.Changes) != 2 {
		t.Fatalf("%+v", b)
	}
	for _, ch := range b.Changes {
		row, _ := ch.Row.(*model.Bridge)
		if (ch.UUID == "u") != (row == nil) || row != nil && (row.Name != "br1" || len(row.FloodVLANs) != 1) {
			t.Errorf("%s: %+v", ch.UUID, row)
		}
	}
	if b := c.Take(); b.Reset || len(b.Changes) != 0 {
		t.Errorf("second take: %+v", b)
	}
}

// TestNonsense: a server that speaks it is left, and tried again.
func TestNonsense(t *testing.T) {
	for _, text := range []string{
		"x", `{"method":"update2","params":[]}`, `{"method":"update2","params":["millrace",{"Bridge":{"nobody":{"modify":{"name":"x"}}}}]}`,
		`{"method":"update2","params":["millrace",{"Bridge":{"u":{"modify":{"name":5}}}}]}`, `{"id":"x","result":{}}`,
		`{"method":"update2","params":["millrace",{"Bridge":{"u":{"modify":{"flood_vlans":["set",["a"]]}}}}]}`,
		`{"method":"update2","params":["millrace",{"Bridge":{"u":{"modify":{"flood_vlans":[]}}}}]}`,
	} {
		s := fakeServer{filepath.Join(t.TempDir(), "a"), func(c net.Conn) { fmt.Fprint(c, text); c.Read(make([]byte, 1)) }}
		s.listen(t)
		c := start(t, "unix:"+s.path)
		resets := 0
		next(t, c, "second try after "+text, func(b Batch) bool {
			if b.Reset {
				resets++
			}
			return resets == 2
		})
	}
}

// TestTransactWithoutServer says so at once.
func TestTransactWithoutServer(t *testing.T) {
	c := start(t, "unix:"+t.TempDir()+"/none")
	if err := c.Transact(t.Context(), ovsdb.Operation{Op: ovsdb.OperationComment}); !errors.Is(err, ErrNotConnected) {
		t.Errorf("%v", err)
	}
	late := time.After(patience)
	for c.Err() == nil || !strings.Contains(c.Err().Error(), "connect to unix:") {
		select {
		case <-c.Ready():
		case <-late:
			t.Fatalf("reason: %v", c.Err())
		}
	}
}

// FuzzEndpoint: what is read as an endpoint reads the same when it is written, and can be dialed.
func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"unix:/run/db.sock", "tcp:127.0.0.1:6640", "ssl:[::1]", "tcp:::1", "tcp:fe80::1%eth0", "tcp:a]b", "ssl:[[x]]:1", "tcp:h:", "tcp:h:99999", "tcp:h:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseEndpoint(s)
		if err != nil {
			if !errors.Is(err, ErrEndpoint) {
				t.Fatal(err)
			}
			return
		}
		if again, err := ParseEndpoint(e.String()); err != nil || again != e {
			t.Fatalf("%q became %q and then %q, %v", s, e, again, err)
		}
		if e.scheme == "unix" {
			return
		}
		host, port, err := net.SplitHostPort(e.address)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			t.Fatalf("%q became %q: host %q, port %q, %v", s, e, host, port, err)
		}
	})
}

// FuzzStream feeds a client what a server might send: it must not panic, and
// must give up on what it cannot understand.
func FuzzStream(f *testing.F) {
	f.Add([]byte(`{"method":"update2","params":["millrace",{"Bridge":{"u":{"modify":{"flood_vlans":["set",[1,2]]}}}}]}`))
	f.Add([]byte(`{"method":"update2","params":["millrace",{"Bridge":{"v":{"insert":{"name":"x","other_config":["map",[["a","b"]]],"ports":["set",[["uuid","p"]]]}}}}]}`))
	f.Add([]byte(`{"method":"stolen","params":["l"]}{"method":"echo","params":[],"id":1}`))
	f.Add([]byte(`{"id":1,"result":{},"error":{"error":"x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := New(Config{Endpoints: []string{"unix:/x"}, Schema: model.Schema(), Tables: []Table{{Name: model.BridgeTable, Row: &model.Bridge{}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.began(nil, Endpoint{}, []byte(`{"Bridge":{"u":{"initial":{"name":"br0"}}}}`)); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		k := newConn(ours, c.notified)
		go func() { // takes answers
			buf := make([]byte, 4096)
			for {
				if _, err := theirs.Read(buf); err != nil {
					return
				}
			}
		}()
		if err := theirs.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, _ = theirs.Write(data) // the client may hang up before the end
		_ = theirs.Close()        // so that it ends
		<-k.done
		for _, ch := range c.Take().Changes {
			if ch.Table != model.BridgeTable {
				t.Errorf("row of table %s", ch.Table)
			}
		}
	})
}

// TestOptionalDatabase: a server that does not have the database is asked again, and
// is no error in the log.
func TestOptionalDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var has atomic.Bool
	var last atomic.Pointer[net.Conn]
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			last.Store(&c)
			go answerDatabases(c, &has)
		}
	}()
	core, logs := observer.New(zap.DebugLevel)
	c, err := New(Config{Endpoints: []string{"unix:" + path}, Schema: model.Schema(), Optional: true, Log: zap.New(core), Tables: []Table{{Name: model.BridgeTable, Row: &model.Bridge{}, Watch: []string{"name"}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	next(t, c, "no database", func(b Batch) bool { return !b.Connected && errors.Is(c.Err(), ErrNoDatabase) })
	if err := c.Transact(ctx); !errors.Is(err, ErrNotConnected) {
		t.Errorf("transaction without a database: %v", err)
	}
	has.Store(true)
	// The next look is some time away; a new connection looks at once.
	if c := last.Load(); c != nil {
		(*c).Close()
	}
	next(t, c, "the database", func(b Batch) bool { return b.Connected && b.Reset && c.Err() == nil })
	if n := logs.FilterLevelExact(zap.WarnLevel).Len(); n > 0 {
		t.Errorf("%d warnings: %v", n, logs.All())
	}
	if n := logs.FilterMessage("the server has no such database").Len(); n != 1 {
		t.Errorf("it says %d times that there is no database", n)
	}
}

// answerDatabases is a server that has Open_vSwitch when it has it.
func answerDatabases(c net.Conn, has *atomic.Bool) {
	defer c.Close()
	dec := json.NewDecoder(c)
	for {
		var m struct {
			Method string          `json:"method"`
			ID     json.RawMessage `json:"id"`
		}
		if dec.Decode(&m) != nil {
			return
		}
		result := "{}"
		switch m.Method {
		case "list_dbs":
			result = `["_Server"]`
			if has.Load() {
				result = `["_Server","Open_vSwitch"]`
			}
		case "echo":
			result = "[]"
		}
		fmt.Fprintf(c, `{"id":%s,"result":%s,"error":null}`, m.ID, result)
	}
}

// TestNotReached: a database that is not reached is told of once, and one whose socket is not
// there yet when both are started only if that lasts.
func TestNotReached(t *testing.T) {
	absent := fmt.Errorf("connect: %w", fs.ErrNotExist)
	for _, tt := range []struct {
		name string
		age  time.Duration // of the client
		err  error
		want int
	}{
		{"starting", 0, absent, 0},
		{"too long", startTime, absent, 1},
		{"refused", 0, errors.New("refused"), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			c := &Client{cfg: Config{Log: zap.New(core)}, ready: make(chan struct{}, 1), start: time.Now().Add(-tt.age)}
			c.lost(t.Context(), tt.err)
			c.lost(t.Context(), tt.err)
			if got := logs.FilterMessageSnippet("not reached").Len(); got != tt.want {
				t.Errorf("%d warnings, want %d", got, tt.want)
			}
		})
	}
}
