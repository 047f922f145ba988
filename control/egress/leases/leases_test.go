package leases

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"millrace/waittest"
)

// A follower is Follow under test.
type follower struct {
	count    atomic.Int64
	log      *observer.ObservedLogs
	registry *prometheus.Registry
}

func follow(t *testing.T, kubeconfig string) *follower {
	t.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	f := &follower{log: logs, registry: prometheus.NewRegistry()}
	ctx, cancel := context.WithCancel(context.Background())
	var over sync.WaitGroup
	over.Go(func() {
		Follow(ctx, Config{Kubeconfig: kubeconfig, Count: func(n int) { f.count.Store(int64(n)) }, Registry: f.registry, Log: zap.New(core)})
	})
	t.Cleanup(func() { cancel(); over.Wait() })
	return f
}

func (f *follower) counts(t *testing.T, n int64) {
	t.Helper()
	for end := time.Now().Add(waittest.Most); f.count.Load() != n; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d servers are counted, want %d; %v", f.count.Load(), n, f.log.All())
		}
	}
}

// TestFollow: leases come, are renewed, run out, and go; each time the number is told.
func TestFollow(t *testing.T) {
	a := serve(t)
	a.put("one", time.Now(), 60)
	file, _ := a.kubeconfig(t)
	f := follow(t, file)
	f.counts(t, 1)
	a.put("two", time.Now(), 60)
	a.put("three", time.Now(), 60)
	f.counts(t, 3)
	a.put("dead", time.Now().Add(-time.Hour), 60)
	a.put("four", time.Now(), 60)
	f.counts(t, 4)
	a.put("four", time.Now(), 1)
	f.counts(t, 3) // when a second has passed
	a.put("four", time.Now(), 60)
	f.counts(t, 4)
	a.delete("one")
	f.counts(t, 3)
	for _, name := range []string{"two", "three", "four"} {
		a.delete(name)
	}
	f.counts(t, 1) // somebody must be there
	if lists, watches := a.counts(); lists != 1 || watches != 1 {
		t.Errorf("%d lists and %d watches, want one of each", lists, watches)
	}
}

// TestGone: a watch goes on where the last one ended, by bookmarks also after a
// time without changes; when that place is forgotten there is a new list.
func TestGone(t *testing.T) {
	a := serve(t)
	a.put("one", time.Now(), 60)
	file, _ := a.kubeconfig(t)
	f := follow(t, file)
	f.counts(t, 1)
	await := func(lists, watches int) {
		t.Helper()
		for end := time.Now().Add(waittest.Most); ; time.Sleep(2 * time.Millisecond) {
			l, w := a.counts()
			if l == lists && w == watches {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d lists and %d watches, want %d and %d", l, w, lists, watches)
			}
		}
	}
	await(1, 1)
	a.put("two", time.Now(), 60)
	f.counts(t, 2)
	a.bookmark()
	a.forget(false)
	await(1, 2)
	a.forget(true)
	a.put("three", time.Now(), 60)
	f.counts(t, 3)
	await(2, 4)
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families {
		if m.GetName() == "konnectivity_network_proxy_agent_lease_lists_total" && m.GetMetric()[0].GetCounter().GetValue() != 2 {
			t.Errorf("%v", m)
		}
	}
}

// TestHasty: an API that ends each watch at once is not asked without a pause, and what it says
// when it is better counts.
func TestHasty(t *testing.T) {
	a := serve(t)
	a.put("one", time.Now(), 60)
	a.setHasty(true)
	file, _ := a.kubeconfig(t)
	start := time.Now()
	f := follow(t, file)
	f.counts(t, 1)
	time.Sleep(watchLeast + watchLeast/2)
	a.setHasty(false)
	if _, watches := a.counts(); watches < 1 || watches > 1+int(time.Since(start)/watchLeast) {
		t.Errorf("%d watches in %v", watches, time.Since(start))
	}
	a.put("two", time.Now(), 60)
	f.counts(t, 2)
}

// TestRefused: an API that refuses is asked again, and the log says why; a token
// that has been put in its place holds. What was counted holds meanwhile.
func TestRefused(t *testing.T) {
	a := serve(t)
	a.put("one", time.Now(), 60)
	a.put("two", time.Now(), 60)
	file, token := a.kubeconfig(t)
	if err := os.WriteFile(token, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := follow(t, file)
	for end := time.Now().Add(waittest.Most); f.log.Len() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody says that the API refuses")
		}
	}
	if text := f.log.All()[0].ContextMap()["error"].(string); !strings.Contains(text, "401 Unauthorized: who are you?") {
		t.Errorf("the log says %q", text)
	}
	if err := os.WriteFile(token, []byte(a.token), 0o600); err != nil {
		t.Fatal(err)
	}
	f.counts(t, 2)
	a.CloseClientConnections()
	a.put("three", time.Now(), 60)
	f.counts(t, 3)
}

func TestKubeconfig(t *testing.T) {
	good := `{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: "https://x:6443"}}], users: [{name: u, user: {token: t}}]}`
	k, err := parseKubeconfig([]byte(good), "/dir")
	if err != nil || k.server != "https://x:6443" || k.token != "t" {
		t.Fatalf("%+v, %v", k, err)
	}
	for part, change := range map[string][2]string{
		"no context":         {"current-context: a", "current-context: b"},
		"no cluster":         {"cluster: c,", "cluster: d,"},
		"no user":            {"user: u}}]", "user: v}}]"},
		"is no https":        {"https://x:6443", "x:6443"},
		"not supported":      {"token: t", "exec: {command: aws}"},
		"and its key":        {"token: t", "client-certificate: c"},
		"cannot unmarshal":   {"token: t", "token: [t]"},
		"did not find expec": {"token: t}}]}", "token: t"},
	} {
		if _, err := parseKubeconfig([]byte(strings.Replace(good, change[0], change[1], 1)), "/dir"); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v; want %q", err, part)
		}
	}
	k, err = parseKubeconfig([]byte(strings.Replace(good, "token: t", "tokenFile: t, client-certificate: /c, client-key: k", 1)), "/dir")
	if err != nil || k.file != "/dir/t" || k.cert.file != "/c" || k.key.file != "/dir/k" {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := k.transport(); err == nil || !strings.Contains(err.Error(), "user's certificate") {
		t.Errorf("a certificate that is not there: %v", err)
	}
}

// FuzzEvents: whatever an API says, nothing breaks.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{`{"metadata":{"name":"a","resourceVersion":"5"},"spec":{"renewTime":"2026-01-02T03:04:05.000000Z","leaseDurationSeconds":30}}`,
		`{"code":410,"reason":"Gone"}`, `{}`, `[]`, `{"spec":{"leaseDurationSeconds":-1}}`} {
		for _, kind := range []string{"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "?"} {
			f.Add(kind, []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, kind string, object []byte) {
		c := &counter{cfg: Config{Count: func(n int) {
			if n < 1 {
				t.Errorf("%d servers", n)
			}
		}}, leases: map[string]lease{}}
		at, err := take(kind, object, "7", c)
		if err != nil && at != "7" {
			t.Errorf("after an error (%v) the place is %q", err, at)
		}
		c.tell()
	})
}

// FuzzKubeconfig: whatever a file says, it is read or refused.
func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte(`{current-context: a, contexts: [{name: a, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "https://x"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := parseKubeconfig(b, "/nowhere"); err == nil && k.server == "" {
			t.Error("no server, no error")
		}
	})
}
