package leases

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// An api is a Kubernetes API with leases and nothing else. As the real one it
// keeps a history of changes from which watches go on, and forgets its beginning.
type api struct {
	*httptest.Server
	token string

	mu      sync.Mutex
	version int
	leases  map[string]object
	history []event // the first of which has the version oldest
	oldest  int
	changed chan struct{}
	ends    chan struct{} // closed: watches end
	hasty   bool          // a watch ends as soon as it has begun
	lists   int
	watches int
	sent    int // version of the last event that a watch was told of
}

type object = map[string]any

type event struct {
	Type   string `json:"type"`
	Object object `json:"object"`
}

func serve(t *testing.T) *api {
	a := &api{token: "secret", version: 10, oldest: 11, leases: map[string]object{}, changed: make(chan struct{}), ends: make(chan struct{})}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(a.answer))
	a.EnableHTTP2 = true
	a.StartTLS()
	t.Cleanup(func() { a.CloseClientConnections(); a.Close() })
	return a
}

// kubeconfig writes a file for a client of the API.
func (a *api) kubeconfig(t *testing.T) (path, token string) {
	t.Helper()
	dir := t.TempDir()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw}))
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts: [{name: other, context: {}}, {name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: u, user: {tokenFile: token}}]
`, a.URL, ca)
	path, token = filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "token")
	for file, what := range map[string]string{path: text, token: a.token + "\n"} {
		if err := os.WriteFile(file, []byte(what), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path, token
}

// put makes or renews a lease.
func (a *api) put(name string, renewed time.Time, seconds int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind := "MODIFIED"
	if a.leases[name] == nil {
		kind = "ADDED"
	}
	a.leases[name] = object{"metadata": object{"name": name}, "spec": object{"renewTime": renewed.UTC().Format("2006-01-02T15:04:05.000000Z07:00"), "leaseDurationSeconds": seconds}}
	a.note(kind, a.leases[name])
}

func (a *api) delete(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.leases[name]
	delete(a.leases, name)
	a.note("DELETED", l)
}

// bookmark tells watches how far they are.
func (a *api) bookmark() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.note("BOOKMARK", object{"metadata": object{}})
}

func (a *api) note(kind string, o object) {
	a.version++
	o["metadata"].(object)["resourceVersion"] = strconv.Itoa(a.version)
	b, _ := json.Marshal(o) // a copy
	var c object
	_ = json.Unmarshal(b, &c)
	a.history = append(a.history, event{kind, c})
	close(a.changed)
	a.changed = make(chan struct{})
}

// forget has no watch go on from before now, and ends those that there are, when
// they have been told of all, or, if something is to be lost, without that.
func (a *api) forget(lose bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !lose && a.sent != a.version {
		a.mu.Unlock()
		time.Sleep(time.Millisecond)
		a.mu.Lock()
	}
	if lose {
		a.version++
	}
	a.history, a.oldest = nil, a.version+1
	close(a.ends)
	a.ends = make(chan struct{})
}

func (a *api) setHasty(yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hasty = yes
}

func (a *api) counts() (lists, watches int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lists, a.watches
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object{"kind": "Status", "code": code, "reason": reason, "message": message})
}

func (a *api) answer(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case r.URL.Path != "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases" || q.Get("labelSelector") != "k8s-app=konnectivity-server":
		refuse(w, 404, "NotFound", "no such thing")
		return
	case r.Header.Get("Authorization") != "Bearer "+a.token:
		refuse(w, 401, "Unauthorized", "who are you?")
		return
	case q.Get("watch") == "":
		a.mu.Lock()
		defer a.mu.Unlock()
		a.lists++
		items := []object{}
		for _, l := range a.leases {
			items = append(items, l)
		}
		_ = json.NewEncoder(w).Encode(object{"kind": "LeaseList", "metadata": object{"resourceVersion": strconv.Itoa(a.version)}, "items": items})
		return
	}
	a.stream(w, r)
}

// stream is a watch.
func (a *api) stream(w http.ResponseWriter, r *http.Request) {
	next, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	next++
	a.mu.Lock()
	a.watches++
	old, ends, hasty := next < a.oldest, a.ends, a.hasty
	a.mu.Unlock()
	if hasty {
		return
	}
	out := json.NewEncoder(w)
	if old { // the API says so in the stream
		_ = out.Encode(event{"ERROR", object{"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}})
		return
	}
	w.(http.Flusher).Flush()
	for {
		a.mu.Lock()
		var todo []event
		if i := next - a.oldest; i >= 0 && i < len(a.history) {
			todo = a.history[i:]
		}
		changed := a.changed
		a.mu.Unlock()
		for _, e := range todo {
			next++
			if e.Type == "BOOKMARK" && r.URL.Query().Get("allowWatchBookmarks") == "" {
				continue
			}
			if out.Encode(e) != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		a.mu.Lock()
		a.sent = next - 1
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ends:
			return
		case <-r.Context().Done():
			return
		}
	}
}
