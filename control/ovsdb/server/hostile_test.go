package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/control/ovsdb/server"
)

// cutOff waits until the server has cut off a client.
func cutOff(t *testing.T, srv *server.Server) {
	t.Helper()
	eventually(t, "the client is cut off", func() bool {
		st, err := srv.Stats(t.Context())
		return err == nil && st.Cut == 1
	})
}

// works runs a transaction of somebody else.
func works(c *client) {
	c.t.Helper()
	began := time.Now()
	c.transact(object{"op": "select", "table": "Open_vSwitch", "where": list{}, "columns": list{"next_cfg"}})
	if d := time.Since(began); d > patience/4 {
		c.t.Errorf("another client waits %v", d)
	}
}

// TestHostileClients has clients that take what they can get without reading
// their answers. Each is cut off, or refused what is too much, and another
// client notices nothing.
func TestHostileClients(t *testing.T) {
	monitor := func(i int) []byte {
		b, _ := json.Marshal(object{"id": i, "method": "monitor", "params": list{"Open_vSwitch", i, object{"QoS": object{}}}})
		return b
	}
	long := strings.Repeat("x", 50_000)
	tests := []struct {
		name string
		send func(i int) []byte
	}{
		{"one message without an end", func(i int) []byte {
			if i == 0 {
				return []byte(`{"method":"`)
			}
			return []byte(long)
		}},
		{"a list of numbers without an end", func(i int) []byte {
			if i == 0 {
				return []byte(`{"method":"transact","params":[0`)
			}
			return bytes.Repeat([]byte(",0"), 10_000)
		}},
		{"answers that nobody reads", func(i int) []byte { return fmt.Appendf(nil, `{"id":%d,"method":"echo","params":["%s"]}`, i, long) }},
		{"monitors whose rows nobody reads", monitor},
		{"selects whose rows nobody reads", func(i int) []byte {
			return fmt.Appendf(nil, `{"id":%d,"method":"transact","params":["Open_vSwitch",{"op":"select","table":"QoS","where":[]}]}`, i)
		}},
		{"nonsense", func(int) []byte { return []byte("]") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv, socket, _ := serve(t, t.TempDir(), func(c *server.Config) { c.MaxMessage, c.MaxQueue = 1<<20, 1<<20 })
			good := dial(t, socket)
			ops := list{"Open_vSwitch"}
			for range 5000 {
				ops = append(ops, object{"op": "insert", "table": "QoS", "row": object{}})
			}
			if m := good.call("transact", ops); m["error"] != nil {
				t.Fatal(m)
			}
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			sent := 0
			for i := 0; sent < 100<<20 && i < 10_000; i++ {
				_ = conn.SetWriteDeadline(time.Now().Add(patience))
				n, err := conn.Write(tt.send(i))
				sent += n
				if err != nil {
					break
				}
				if i%100 == 0 {
					works(good)
				}
			}
			cutOff(t, srv)
			works(good)
			if sent > 20<<20 {
				t.Errorf("the server took %d bytes before it cut the client off", sent)
			}
		})
	}
}

// TestManyMonitors has a client that reads open 10,000 monitors: those over
// the limit are refused, and the client may go on.
func TestManyMonitors(t *testing.T) {
	srv, socket, _ := serve(t, t.TempDir(), nil)
	greedy, good := dial(t, socket), dial(t, socket)
	const n = 10_000
	go func() {
		var b []byte
		for i := range n {
			b = fmt.Appendf(b, `{"id":%d,"method":"monitor","params":["Open_vSwitch",%d,{"Bridge":{}}]}`, i, i)
		}
		_, _ = greedy.conn.Write(b) // the answers tell
	}()
	made, refused := 0, 0
	for range n {
		m, err := greedy.message()
		switch {
		case err != nil:
			t.Fatal(err)
		case m["error"] == nil:
			made++
		case strings.Contains(fmt.Sprint(m["error"]), "resources exhausted"):
			refused++
		default:
			t.Fatal(m)
		}
	}
	if made != 1000 || refused != n-1000 {
		t.Errorf("%d monitors are made and %d refused, want 1000 and %d", made, refused, n-1000)
	}
	works(good)
	greedy.conn.Close()
	eventually(t, "its monitors are gone", func() bool {
		st, err := srv.Stats(t.Context())
		return err == nil && st.Databases[0].Monitors == 0
	})
}

// TestHalfOpenTLS has a client that connects by TLS and never shakes hands, and
// too many that only connect: the local socket has places left.
func TestHalfOpenTLS(t *testing.T) {
	p := newPKI(t)
	key, cert := p.issue("server")
	_, socket, _ := serve(t, t.TempDir(), func(c *server.Config) {
		managers(c)
		c.TLS, c.MaxSessions = p.config(key, cert), 3
	})
	c := dial(t, socket)
	c.transact(object{"op": "insert", "table": "Manager", "uuid-name": "m", "row": object{"target": "pssl:0:127.0.0.1", "inactivity_probe": 1000}},
		object{"op": "insert", "table": "Open_vSwitch", "row": object{"manager_options": list{"named-uuid", "m"}}})
	var port string
	eventually(t, "it listens", func() bool {
		status := fmt.Sprint(c.transact(object{"op": "select", "table": "Manager", "where": list{}, "columns": list{"status"}}))
		_, rest, found := strings.Cut(status, "bound_port ")
		port, _, _ = strings.Cut(rest, "]")
		return found
	})
	for i := range 10 {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i != 0 {
			continue
		}
		defer func() {
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("who does not shake hands is kept: %v", err)
			}
		}()
	}
	works(dial(t, socket))
}
