package ovsdb

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/control/ovsdb/model"
)

// lateLock answers that somebody else has the lock, and at once that it is
// ours: he ended in that moment.
func lateLock(t *testing.T, path string) {
	t.Helper()
	acceptAll(t, path, func(c net.Conn) {
		dec := json.NewDecoder(bufio.NewReader(c))
		for {
			var m message
			if dec.Decode(&m) != nil {
				return
			}
			switch m.Method {
			case "lock":
				fmt.Fprintf(c, `{"id":%s,"result":{"locked":false},"error":null}{"id":null,"method":"locked","params":["l"]}`, m.ID)
			case "monitor_cond":
				fmt.Fprintf(c, `{"id":%s,"result":{},"error":null}`, m.ID)
			}
		}
	})
}

// TestLockComesAtOnce: the lock that comes right behind the answer that it is
// somebody else's is ours.
func TestLockComesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	lateLock(t, path)
	for range 20 {
		c := start(t, "unix:"+path)
		next(t, c, "the lock", func(b Batch) bool { return b.Connected && b.Owner })
	}
}

// TestNothingAfterTheEnd: an update that is being read when the connection ends
// is not stored any more once Run is done with it: the next connection's rows
// would mix with it.
func TestNothingAfterTheEnd(t *testing.T) {
	var rows []string
	for i := range 5000 {
		rows = append(rows, fmt.Sprintf(`"u%d":{"insert":{"name":"br%d"}}`, i, i))
	}
	update := fmt.Sprintf(`{"method":"update2","params":["millrace",{"Bridge":{%s}}],"id":null}`, strings.Join(rows, ","))
	s := fakeServer{filepath.Join(t.TempDir(), "a"), func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, update); err != nil {
				return
			}
		}
	}}
	s.listen(t)
	for range 5 {
		c, err := New(Config{Endpoints: []string{"unix:" + s.path}, Schema: model.Schema(), Tables: []Table{{Name: model.BridgeTable, Row: &model.Bridge{}, Watch: []string{"name"}}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		next(t, c, "many rows", func(b Batch) bool { return len(b.Changes) > 1 })
		cancel()
		<-ended
		c.Take()
		select { // what is there already
		case <-c.Ready():
		default:
		}
		select {
		case <-c.Ready():
			t.Fatalf("%d rows came after the end", len(c.Take().Changes))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestAttentive: a server that says something, or has said what takes long to
// read, is waited for; one that is silent is not.
func TestAttentive(t *testing.T) {
	const limit = 2 * time.Second
	for _, tt := range []struct {
		name string
		busy func(theirs net.Conn, released chan<- struct{}) // for 2.5 times the limit
	}{
		{"a long message", func(theirs net.Conn, _ chan<- struct{}) {
			for range 50 {
				_, _ = theirs.Write([]byte(" ")) // the check is of the context
				time.Sleep(limit / 20)
			}
		}},
		{"a message that takes long", func(theirs net.Conn, released chan<- struct{}) {
			_, _ = theirs.Write([]byte(`{"method":"slow","params":[],"id":null}`))
			time.Sleep(limit * 5 / 2)
			close(released)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				release := make(chan struct{})
				k := newConn(ours, func(string, json.RawMessage) error { <-release; return nil })
				defer k.close(io.EOF)
				ctx, cancel := k.attentive(t.Context(), limit)
				defer cancel()
				tt.busy(theirs, release)
				if ctx.Err() != nil {
					t.Fatalf("given up: %v", context.Cause(ctx))
				}
				select {
				case <-ctx.Done():
				case <-time.After(patience):
					t.Error("a silent server is waited for")
				}
			})
		})
	}
}
