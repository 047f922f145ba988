package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/control/cni/attach"
)

// TestKubeOwner: whose a pod's socket is, by what its specification says.
func TestKubeOwner(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{"nothing", `{"containers":[{}]}`, "null"},
		{"pod", `{"securityContext":{"runAsUser":7,"fsGroup":9},"containers":[{},{}]}`, `{"uid":7,"gid":9}`},
		{"container", `{"securityContext":{"runAsUser":7},"containers":[{"securityContext":{"runAsUser":8,"runAsGroup":6}}]}`, `{"uid":8,"gid":6}`},
		{"no group", `{"containers":[{"securityContext":{"runAsUser":8}}]}`, `{"uid":8,"gid":0}`},
		{"two users", `{"containers":[{"securityContext":{"runAsUser":8}},{"securityContext":{"runAsUser":9}}]}`, "null"},
		{"one by its image", `{"containers":[{"securityContext":{"runAsUser":8}},{}]}`, "null"},
		{"users are mapped", `{"hostUsers":false,"securityContext":{"runAsUser":7},"containers":[{}]}`, "null"},
		{"no container", `{"securityContext":{"runAsUser":7}}`, "null"},
	} {
		var p kubePod
		if err := json.Unmarshal([]byte(`{"spec":`+tt.spec+`}`), &p); err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(p.owner()); string(got) != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// A fakeAPI has one pod, and lets the first patch come too late.
type fakeAPI struct {
	t       *testing.T
	pod     map[string]any
	late    int
	patches int
}

// ServeHTTP implements http.Handler.
func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer secret" || r.URL.Path != "/api/v1/namespaces/ns/pods/p" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	meta := f.pod["metadata"].(map[string]any)
	if r.Method == http.MethodPatch {
		if f.patches++; f.patches <= f.late {
			w.WriteHeader(http.StatusConflict)
			return
		}
		text, _ := io.ReadAll(r.Body)
		var patch struct {
			Metadata struct {
				Version     string         `json:"resourceVersion"`
				Annotations map[string]any `json:"annotations"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(text, &patch); err != nil || patch.Metadata.Version != "5" || r.Header.Get("Content-Type") != "application/merge-patch+json" {
			f.t.Errorf("patch %s: %v", text, err)
		}
		for k, v := range patch.Metadata.Annotations {
			meta["annotations"].(map[string]any)[k] = v
		}
	}
	_ = json.NewEncoder(w).Encode(f.pod)
}

// TestKube: the agent gives the socket's directory to the user that the API names, finds the volume where the
// container has it, and adds to the annotations that the userspace CNI plugin's users
// read, also when others change the pod.
func TestKube(t *testing.T) {
	a, at, volume := volumeAgent(t)
	api := &fakeAPI{t: t, late: 2, pod: map[string]any{
		"metadata": map[string]any{"uid": "u1", "resourceVersion": "5", "annotations": map[string]any{
			"kept": "yes", annotationData: `[{"ifName":"net0","x":1},{"ifName":"net1","old":true}]`}},
		"spec": map[string]any{"securityContext": map[string]any{"runAsUser": 1234, "fsGroup": 2000},
			"containers": []any{map[string]any{"volumeMounts": []any{map[string]any{"name": "shared-dir", "mountPath": "/dpdk"}}}}},
	}}
	server := httptest.NewServer(api)
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Kube = &Kube{server.URL, token, server.Client()}
	at.Pod, at.Userspace = attach.Pod{Namespace: "ns", Name: "p", UID: "u1"}, true
	if err := a.consult(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if at.Owner == nil || *at.Owner != (attach.Owner{UID: 1234, GID: 2000}) || at.Mount != "/dpdk" {
		t.Errorf("owner %+v, mount %s", at.Owner, at.Mount)
	}
	p, err := a.makePlace(at)
	if err != nil {
		t.Fatal(err)
	}
	if _, options := interfaceOf(at, p); options["peer-uid"] != "1234" {
		t.Errorf("options of the port: %v", options)
	}
	if err := a.announce(t.Context(), at, p); err != nil {
		t.Fatal(err)
	}
	have := api.pod["metadata"].(map[string]any)["annotations"].(map[string]any)
	file, err := os.ReadFile(filepath.Join(volume, userspaceConfig(at)))
	if want := `[{"ifName":"net0","x":1},` + string(file) + `]`; err != nil || have[annotationData] != want || have[annotationDir] != "/dpdk/" || have["kept"] != "yes" {
		t.Errorf("annotations %v, %v\nwant %s", have, err, want)
	}
	if strings.Contains(have[annotationData].(string), "=") {
		t.Error("app-netutil passes over what has an equals sign")
	}
	at.Owner, at.Pod.UID = nil, "another"
	if err := a.consult(t.Context(), at); err == nil {
		t.Error("another pod of the name says whose the socket is")
	}
	at.Pod.Name = "q"
	if err := a.consult(t.Context(), at); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("of a refusal is told %v", err)
	}
}

// TestInCluster: outside of a cluster there is no API.
func TestInCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if k, err := InCluster(); k != nil || err != nil {
		t.Errorf("%v, %v", k, err)
	}
}

// FuzzEntry: an interface has one entry afterwards, and those of others are as they were.
func FuzzEntry(f *testing.F) {
	for _, s := range []string{"", "null", "[]", `[{"ifName":"net1","x":1},{"ifName":"net2"}]`, `[{"ifName":"net2"},{"ifName":"net2"},7,null,{"ifName":3}]`, `{"ifName":"net1"}`, `[{}`} {
		f.Add(s, "net2")
	}
	f.Fuzz(func(t *testing.T, list, name string) {
		if attach.CheckName(name) != nil {
			return
		}
		entry, err := json.Marshal(map[string]string{"ifName": name, "is": "new"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := withEntry(list, name, entry)
		if err != nil {
			t.Fatalf("%q: %v", list, err)
		}
		again, err := withEntry(got, name, entry)
		if err != nil || again != got {
			t.Fatalf("%s became %s, %v", got, again, err)
		}
		was, is := entries(list), entries(got)
		if len(is) == 0 || is[len(is)-1] != (named{name, string(entry)}) {
			t.Fatalf("%s became %s", list, got)
		}
		was = slices.DeleteFunc(was, func(n named) bool { return n.name == name })
		if !slices.Equal(was, is[:len(is)-1]) {
			t.Fatalf("%s became %s", list, got)
		}
	})
}

// named is an entry in compact form, with whose it is.
type named struct{ name, text string }

// entries are those of a list that can be anybody's.
func entries(list string) (all []named) {
	var raw []json.RawMessage
	if json.Unmarshal([]byte(list), &raw) != nil {
		return nil
	}
	for _, e := range raw {
		var n struct {
			IfName string `json:"ifName"`
		}
		text, err := json.Marshal(e) // as in a list that is written
		if json.Unmarshal(e, &n) == nil && err == nil {
			all = append(all, named{n.IfName, string(text)})
		}
	}
	return all
}
