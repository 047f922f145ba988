package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// patience is how long a test waits for what should come at once.
const patience = time.Minute

// need skips the test if stock programs are missing.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: apt-get install openvswitch-switch", p)
		}
	}
}

// run runs a stock program and returns its output.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, &out, &errs)
	}
	return out.String()
}

// serve runs our server in dir until the test ends or stop is called, and
// returns the path of its socket.
func serve(t testing.TB, dir string, change func(*server.Config)) (srv *server.Server, socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(dir, "db.sock")
	cfg := server.Config{
		Databases: []server.Database{{Path: filepath.Join(dir, "conf.db"), Schema: schema.OpenVSwitch}},
		Listen:    []string{"punix:" + socket},
		Log:       zaptest.NewLogger(t),
	}
	if change != nil {
		change(&cfg)
	}
	srv, err := server.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := srv.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Cleanup(stop)
	return srv, socket, stop
}

// serveStock runs ovsdb-server on a file and returns the path of its socket.
func serveStock(t testing.TB, dir, file string, more ...string) (socket string, stop func()) {
	t.Helper()
	need(t, "ovsdb-server")
	socket = filepath.Join(dir, "stock.sock")
	cmd := exec.Command("ovsdb-server", append(more, "--remote=punix:"+socket, "--unixctl="+filepath.Join(dir, "ctl"), "--no-chdir", "-vconsole:off", "-vsyslog:off", file)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(patience); ; {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return socket, stop
		}
		if time.Now().After(deadline) {
			t.Fatal("ovsdb-server does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A client speaks JSON-RPC and nothing else.
type client struct {
	t      testing.TB
	conn   net.Conn
	framer jsonval.Framer
	buf    []byte
	next   int
	notes  []map[string]any // notifications that came before the last answer
}

func dial(t testing.TB, socket string) *client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn}
}

// send sends a request and returns its id.
func (c *client) send(method string, params any) int {
	c.t.Helper()
	c.next++
	b, err := json.Marshal(map[string]any{"method": method, "params": params, "id": c.next})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
	return c.next
}

// message returns the next message, decoded.
func (c *client) message() (map[string]any, error) {
	var v map[string]any
	raw, err := c.raw()
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return v, d.Decode(&v)
}

// raw returns the next message.
func (c *client) raw() ([]byte, error) {
	var msg []byte
	for {
		if len(c.buf) == 0 {
			b := make([]byte, 1<<18)
			if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				return nil, err
			}
			n, err := c.conn.Read(b)
			if err != nil {
				return nil, err
			}
			c.buf = b[:n]
		}
		n, done, err := c.framer.Feed(c.buf)
		if err != nil {
			return nil, err
		}
		msg = append(msg, c.buf[:n]...)
		c.buf = c.buf[n:]
		if done {
			return msg, nil
		}
	}
}

// call sends a request and returns its answer. Notifications go to notes.
func (c *client) call(method string, params any) map[string]any {
	c.t.Helper()
	return c.answer(c.send(method, params))
}

// answer waits for the answer to request id.
func (c *client) answer(id int) map[string]any {
	c.t.Helper()
	c.notes = nil
	for {
		m, err := c.message()
		if err != nil {
			c.t.Fatalf("waiting for answer %d: %v", id, err)
		}
		if fmt.Sprint(m["id"]) == fmt.Sprint(id) {
			return m
		}
		if m["method"] != "echo" {
			c.notes = append(c.notes, m)
		}
	}
}

// transact runs a transaction and returns its results.
func (c *client) transact(ops ...any) []any {
	c.t.Helper()
	m := c.call("transact", append([]any{"Open_vSwitch"}, ops...))
	res, ok := m["result"].([]any)
	if !ok {
		c.t.Fatalf("transact: %v", m)
	}
	return res
}

// compactOften compacts a server's file 20 times.
func compactOften(srv *server.Server) (err error) {
	for range 20 {
		err = errors.Join(err, srv.Compact(context.Background(), "Open_vSwitch"))
	}
	return err
}

// countWhile counts next_cfg up, one transaction after another, until running errors have come from
// done, all nil, and at least 50 times. It returns how often that was.
func (c *client) countWhile(running int, done <-chan error) (n int) {
	c.t.Helper()
	for ; running > 0 || n < 50; n++ {
		select {
		case err := <-done:
			if running--; err != nil {
				c.t.Fatal(err)
			}
		default:
		}
		c.transact(object{"op": "mutate", "table": "Open_vSwitch", "where": list{}, "mutations": list{list{"next_cfg", "+=", 1}}})
	}
	return n
}

// counted fails the test unless the file in dir has all that countWhile counted to n.
func counted(t *testing.T, dir string, n int) {
	t.Helper()
	_, socket, _ := serve(t, dir, nil)
	got := dial(t, socket).transact(object{"op": "select", "table": "Open_vSwitch", "where": list{}, "columns": list{"next_cfg"}})
	if want := fmt.Sprintf("[map[rows:[map[next_cfg:%d]]]]", n); fmt.Sprint(got) != want {
		t.Errorf("the file has %v, want %s", got, want)
	}
}

// object is a JSON object.
type object = map[string]any

// list is a JSON array.
type list = []any
