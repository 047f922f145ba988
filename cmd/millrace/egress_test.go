package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/egress/admin"
	"millrace/control/egress/agent"
	"millrace/control/egress/konntest"
)

// TestEgressAgent runs the program against a server, has a request come through,
// and looks at it by the other commands.
func TestEgressAgent(t *testing.T) {
	s := &konntest.Server{ID: "server-1"}
	s.Start(t, "127.0.0.1:0")
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go web.Serve(l)
	t.Cleanup(func() { _ = web.Close() })
	dir := t.TempDir()
	p := spawn(t, "egress", "agent", "--run-dir", dir, "--server", s.Addr(), "--server", "127.0.0.1:1", "--insecure", "--allow", "node=127.0.0.1",
		"--allow", "host-names=*.test", "--allow", "pods=10.16.0.0/16", "--host", "Web.test.=127.0.0.1,192.0.2.1", "--listen", "127.0.0.1:0", "--drain-timeout", "100ms")
	if got := p.line(t); got != "ready\n" {
		t.Fatalf("first line is %q", got)
	}
	await(t, "the agent comes", func() bool { _, ready := s.Backends(); return ready > 0 })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	get(t, s, "web.test:"+port)
	lookAtAgent(t, dir, port)
	if r := run(t, "egress", "agent", "--run-dir", dir, "--server", s.Addr(), "--insecure"); r.code != exitInUse {
		t.Errorf("a second agent: exit code %d, %s", r.code, r.err)
	}
	p.end(t, syscall.SIGTERM)
	if r := run(t, "egress", "status", "--run-dir", dir); r.code != exitNotRunning || !strings.Contains(r.err, "egress agent") {
		t.Errorf("status without an agent: exit code %d, %s", r.code, r.err)
	}
}

// get has a server fetch a page through the tunnel.
func get(t *testing.T, s *konntest.Server, target string) {
	t.Helper()
	c, err := s.DialGRPC(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); string(b) != "hello" {
		t.Errorf("the page is %q: %v", b, err)
	}
}

func lookAtAgent(t *testing.T, dir, port string) {
	t.Helper()
	status := run(t, "egress", "status", "--run-dir", dir)
	if status.code != exitOK || !strings.Contains(status.out, "ready, 1 of 1 servers") || !strings.Contains(status.out, "server-1") {
		t.Errorf("status: %d\n%s%s", status.code, status.out, status.err)
	}
	await(t, "the status tells of the server that is not there", func() bool {
		return strings.Contains(run(t, "egress", "status", "--run-dir", dir).out, "trouble: 127.0.0.1:1: ")
	})
	var st agent.Status
	if err := json.Unmarshal([]byte(run(t, "egress", "status", "--json", "--run-dir", dir).out), &st); err != nil || !st.Ready || len(st.Links) != 2 {
		t.Errorf("status --json: %+v, %v", st, err)
	}
	var reqs admin.Requests
	requests := run(t, "egress", "requests", "--json", "--run-dir", dir)
	if err := json.Unmarshal([]byte(requests.out), &reqs); err != nil || len(reqs.Ended)+len(reqs.Open) != 1 {
		t.Errorf("requests --json: %v\n%s", err, requests.out)
	}
	if out := run(t, "egress", "requests", "--run-dir", dir).out; !strings.Contains(out, "web.test:"+port) || !strings.Contains(out, "127.0.0.1:"+port) {
		t.Errorf("requests:\n%s", out)
	}
	top := run(t, "egress", "top", "--interval", "20ms", "--count", "2", "--run-dir", dir)
	if top.code != exitOK || strings.Count(top.out, "ready, 1 of 1 servers connected") != 2 || !strings.Contains(top.out, "bit/s") {
		t.Errorf("top: %d\n%s%s", top.code, top.out, top.err)
	}
	checkJSON(t, run(t, "egress", "top", "--interval", "20ms", "--count", "1", "--json", "--run-dir", dir).out)
	for _, tt := range []struct {
		target string
		code   int
		part   string
	}{
		{"127.0.0.1:80", exitOK, "node"},
		{"10.16.0.1:80", exitError, "this agent has none"},
		{"web.test:80", exitOK, "no rule"}, // one of two addresses passes
		{"192.0.2.1:80", exitError, "no rule"},
		{"127.0.0.1:0", exitError, "port"},
		{"evil.example:80", exitError, "looked up"},
	} {
		if r := run(t, "egress", "explain", tt.target, "--run-dir", dir); r.code != tt.code || !strings.Contains(r.out+r.err, tt.part) {
			t.Errorf("explain %s: exit code %d\n%s%s", tt.target, r.code, r.out, r.err)
		}
	}
}

// TestGoldenEgress: what people see of an agent's connections.
func TestGoldenEgress(t *testing.T) {
	since := time.Now().Add(-60600 * time.Millisecond) // 1m1s, for most of a second
	old := agent.LinkStatus{Address: "192.0.2.1:8132", Server: "old", Since: since, LastSeen: 20 * time.Millisecond, RTT: 300 * time.Microsecond, Streams: 4, Idle: 4, NoDrain: true}
	s := agent.Status{Ready: true, ServersUp: 2, ServersKnown: 3, Requests: 5, Trouble: "192.0.2.3:8132: connection refused", Links: []agent.LinkStatus{
		old, old, {Address: "192.0.2.2:8132", Server: "new", Since: since, LastSeen: time.Second, RTT: 25 * time.Millisecond, Resent: 12345, Streams: 13, Idle: 8},
	}}
	var out bytes.Buffer
	if err := (&app{out: &out}).showEgressStatus(s); err != nil {
		t.Fatal(err)
	}
	golden(t, "egress_status", out.String())
}

func TestEgressUsage(t *testing.T) {
	dir := t.TempDir()
	for part, args := range map[string][]string{
		"--server: none":      {},
		"any server could":    {"--server", "a:1"},
		"give both or none":   {"--server", "a:1", "--ca", "x", "--cert", "y"},
		"give one of them":    {"--server", "a:1", "--ca", "x", "--insecure"},
		"missing port":        {"--server", "a", "--ca", "x"},
		`rule "pod=10.0.0.1"`: {"--server", "a:1", "--ca", "x", "--allow", "pod=10.0.0.1"},
		"is not ADDRESS:PORT": {"--server", "a:1", "--ca", "x", "--dns", "dns"},
		"want NAME=ADDRESS":   {"--server", "a:1", "--ca", "x", "--host", "a"},
		"neither default":     {"--server", "a:1", "--ca", "x", "--server-count-source", "some"},
		"--log-requests":      {"--server", "a:1", "--ca", "x", "--log-requests", "loud"},
		"unable to parse IP":  {"--server", "a:1", "--ca", "x", "--host", "a=b"},
		"--identifiers":       {"--server", "a:1", "--ca", "x", "--identifiers", "ip=10.0.0.1"},
		"--node-name":         {"--server", "a:1", "--ca", "x", "--node-name", "nöde"},
	} {
		if r := run(t, append([]string{"egress", "agent", "--run-dir", dir}, args...)...); r.code != exitUsage || !strings.Contains(r.err, part) {
			t.Errorf("%v: exit code %d, %s; want %q", args, r.code, r.err, part)
		}
	}
	r := run(t, "egress", "agent", "--run-dir", dir, "--server", "a:1", "--insecure", "--netns", filepath.Join(dir, "none"))
	if r.code != exitError || !strings.Contains(r.err, "ip netns list") {
		t.Errorf("a namespace that is not there: exit code %d, %s", r.code, r.err)
	}
}

// TestEgressPeriod: what moved most, or has been open for longest, comes first; what
// had ended before counts no more.
func TestEgressPeriod(t *testing.T) {
	start := time.Unix(1000, 0)
	request := func(dial, toTarget, toClient int64, age time.Duration) agent.Request {
		return agent.Request{Agent: "a", Dial: dial, Started: start.Add(-age), Duration: age, ToTarget: toTarget, ToClient: toClient, State: "open"}
	}
	at := func(seconds int, ended uint64, list ...agent.Request) *egressSample {
		s := &egressSample{at: start.Add(time.Duration(seconds) * time.Second), requests: map[requestKey]agent.Request{}}
		s.status.Totals.Requests = ended
		for _, r := range list {
			s.requests[requestKey{r.Agent, r.Dial}] = r
		}
		return s
	}
	old, gone := request(1, 100, 0, time.Hour), request(2, 1_000_000, 0, time.Minute)
	gone.ClosedBy = "client"
	busy, quick := request(3, 0, 4000, time.Second), request(4, 500, 0, 0)
	quick.ClosedBy, quick.Started = "target", start.Add(time.Second)
	before := at(0, 10, old, gone, request(3, 0, 2000, time.Second))
	now := at(2, 14, old, gone, busy, quick)
	order := func(by string) (dials []int64) {
		for _, r := range (&egressTopQuery{topQuery{by: by, rows: 10}}).period(before, now).Top {
			dials = append(dials, r.Dial)
		}
		return dials
	}
	if got := order("bytes"); !slices.Equal(got, []int64{3, 4, 1}) {
		t.Errorf("by bytes: %v", got)
	}
	if got := order("age"); !slices.Equal(got, []int64{1, 3, 4}) {
		t.Errorf("by age: %v", got)
	}
	p := (&egressTopQuery{topQuery{by: "bytes", rows: 1}}).period(before, now)
	if p.Requests != 2 || p.ToClient != 1000 || p.ToTarget != 250 || len(p.Top) != 1 {
		t.Errorf("%+v", p)
	}
}
