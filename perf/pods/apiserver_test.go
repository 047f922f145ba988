package pods

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// An apiServer is as much of the Kubernetes API as a CNI plugin asks for: pods and
// networks of namespace default, and the status of pods, in JSON and, what it is sent, in
// protobuf.
type apiServer struct {
	*httptest.Server
	mu       sync.Mutex
	pods     map[string]fields
	networks map[string]fields
	strange  []string // what it was asked for and does not have
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("loopback: %v: %s", err, out)
	}
	a := &apiServer{pods: map[string]fields{}, networks: map[string]fields{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

// kubeconfig writes a file by which clients find the server.
func (a *apiServer) kubeconfig(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "kubeconfig")
	text, err := json.Marshal(fields{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{fields{"name": "c", "cluster": fields{"server": a.URL}}},
		"users":    []any{fields{"name": "u", "user": fields{}}},
		"contexts": []any{fields{"name": "c", "context": fields{"cluster": "c", "user": "u"}}},
	})
	check(t, err)
	check(t, os.WriteFile(path, text, 0o600))
	return path
}

// addPod makes a pod known.
func (a *apiServer) addPod(name, uid string, annotations map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods[name] = fields{"apiVersion": "v1", "kind": "Pod", "metadata": fields{"name": name, "namespace": "default", "uid": uid, "annotations": annotations, "resourceVersion": "1"},
		"spec": fields{"containers": []any{fields{"name": "c", "image": "i"}}}, "status": fields{"phase": "Pending"}}
}

// setSpec changes what a pod consists of.
func (a *apiServer) setSpec(name string, spec fields) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods[name]["spec"] = spec
}

// addNetwork makes a NetworkAttachmentDefinition known.
func (a *apiServer) addNetwork(name, resource, config string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.networks[name] = fields{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": fields{"name": name, "namespace": "default", "annotations": fields{"k8s.v1.cni.cncf.io/resourceName": resource}}, "spec": fields{"config": config}}
}

// annotations are those of a pod, as they were updated last.
func (a *apiServer) annotations(name string) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[name]["metadata"].(fields)["annotations"].(map[string]string)
}

// ServeHTTP implements http.Handler.
func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	pod, isPod := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/default/pods/")
	network, isNetwork := strings.CutPrefix(r.URL.Path, "/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions/")
	pod, isStatus := strings.CutSuffix(pod, "/status")
	var answer fields
	switch {
	case isPod && r.Method == http.MethodGet:
		answer = a.pods[pod]
	case isPod && isStatus && r.Method == http.MethodPut && a.pods[pod] != nil:
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var m map[string]string
			m, err = podAnnotations(body)
			a.pods[pod]["metadata"].(fields)["annotations"] = m
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer = a.pods[pod]
	case isNetwork && r.Method == http.MethodGet:
		answer = a.networks[network]
	case strings.HasSuffix(r.URL.Path, "/events") && r.Method == http.MethodPost:
		answer = fields{"apiVersion": "v1", "kind": "Event"}
	default:
		a.strange = append(a.strange, r.Method+" "+r.URL.Path)
	}
	if answer == nil {
		w.WriteHeader(http.StatusNotFound)
		answer = fields{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found: " + r.URL.Path}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// podAnnotations reads a pod as clients send it: "k8s\0", a runtime.Unknown whose field 2 is the
// Pod, whose field 1 is an ObjectMeta, whose field 12 are the annotations.
func podAnnotations(body []byte) (map[string]string, error) {
	text, ok := bytes.CutPrefix(body, []byte("k8s\x00"))
	if !ok {
		return nil, errors.New("no protobuf of Kubernetes")
	}
	out := map[string]string{}
	err := each(text, 2, func(pod []byte) error {
		return each(pod, 1, func(meta []byte) error {
			return each(meta, 12, func(entry []byte) error {
				var kv [2]string
				for i := range kv {
					if err := each(entry, protowire.Number(i+1), func(b []byte) error { kv[i] = string(b); return nil }); err != nil {
						return err
					}
				}
				out[kv[0]] = kv[1]
				return nil
			})
		})
	})
	return out, err
}

// each calls fn with what each field of a number has.
func each(message []byte, number protowire.Number, fn func([]byte) error) error {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return protowire.ParseError(size)
		}
		message = message[size:]
		length := protowire.ConsumeFieldValue(n, kind, message)
		if length < 0 {
			return protowire.ParseError(length)
		}
		if n == number && kind == protowire.BytesType {
			_, skip := binary.Uvarint(message)
			if err := fn(message[skip:length]); err != nil {
				return err
			}
		}
		message = message[length:]
	}
	return nil
}
