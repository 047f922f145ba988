package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"millrace/control/cni/attach"
)

// A Kube is the Kubernetes API, for agents that may read and annotate pods: it says which
// user a pod's processes are, and takes what users of the userspace CNI plugin read.
type Kube struct {
	base   string // https://HOST:PORT
	token  string // file, which is exchanged now and then
	client *http.Client
}

// serviceAccount is where a pod finds what it needs to talk to the API.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

const (
	kubeTimeout = 5 * time.Second
	kubeMax     = 4 << 20 // bytes of a pod
	kubeTries   = 10      // while others change the pod
)

// InCluster is the API as a pod sees it, or nil if we are in none that may talk to it.
func InCluster() (*Kube, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	ca, err := os.ReadFile(filepath.Join(serviceAccount, "ca.crt"))
	if host == "" || port == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(ca) {
		err = errors.New("it has no certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("certificate of the Kubernetes API: %w", err)
	}
	secure := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return &Kube{"https://" + net.JoinHostPort(host, port), filepath.Join(serviceAccount, "token"), &http.Client{Timeout: kubeTimeout, Transport: secure}}, nil
}

// A kubePod is what we look at of a pod.
type kubePod struct {
	Metadata struct {
		UID         string            `json:"uid"`
		Version     string            `json:"resourceVersion"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		HostUsers  *bool           `json:"hostUsers"`
		Security   kubeSecurity    `json:"securityContext"`
		Containers []kubeContainer `json:"containers"`
	} `json:"spec"`
}

type kubeContainer struct {
	Security kubeSecurity `json:"securityContext"`
	Mounts   []struct {
		Name string `json:"name"`
		Path string `json:"mountPath"`
	} `json:"volumeMounts"`
}

type kubeSecurity struct {
	User    *uint32 `json:"runAsUser"`
	Group   *uint32 `json:"runAsGroup"`
	FSGroup *uint32 `json:"fsGroup"`
}

// path is where a pod is.
func (k *Kube) path(p attach.Pod) string {
	return k.base + "/api/v1/namespaces/" + url.PathEscape(p.Namespace) + "/pods/" + url.PathEscape(p.Name)
}

// do makes a request and reads the pod that is the answer.
func (k *Kube) do(ctx context.Context, method string, p attach.Pod, body []byte) (*kubePod, int, error) {
	r, err := http.NewRequestWithContext(ctx, method, k.path(p), bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if token, err := os.ReadFile(k.token); err == nil {
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	answer, err := k.client.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, kubeMax))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s of pod %s/%s: %s", method, p.Namespace, p.Name, answer.Status)
	}
	pod := &kubePod{}
	if err == nil {
		err = json.Unmarshal(text, pod)
	}
	return pod, answer.StatusCode, err
}

// pod reads a pod, which must be the one that the runtime means.
func (k *Kube) pod(ctx context.Context, p attach.Pod) (*kubePod, error) {
	pod, _, err := k.do(ctx, http.MethodGet, p, nil)
	if err == nil && p.UID != "" && pod.Metadata.UID != p.UID && pod.Metadata.Annotations["kubernetes.io/config.mirror"] == "" {
		err = fmt.Errorf("pod %s/%s is another one by now", p.Namespace, p.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the Kubernetes API: %w", err)
	}
	return pod, nil
}

// owner is the user that all containers of the pod run as, and the group that kubelet
// gives volumes to, or nil if nobody says: where an image has a user, or users are mapped.
func (p *kubePod) owner() *attach.Owner {
	if p.Spec.HostUsers != nil && !*p.Spec.HostUsers || len(p.Spec.Containers) == 0 {
		return nil
	}
	var out *attach.Owner
	for _, c := range p.Spec.Containers {
		user, group := or(c.Security.User, p.Spec.Security.User), or(p.Spec.Security.FSGroup, or(c.Security.Group, p.Spec.Security.Group))
		if user == nil {
			return nil
		}
		o := attach.Owner{UID: *user}
		if group != nil {
			o.GID = *group
		}
		if out != nil && *out != o {
			return nil
		}
		out = &o
	}
	return out
}

func or(a, b *uint32) *uint32 {
	if a != nil {
		return a
	}
	return b
}

// mount is where a container has a volume; empty: none has.
func (p *kubePod) mount(volume string) string {
	for _, c := range p.Spec.Containers {
		for _, m := range c.Mounts {
			if m.Name == volume {
				return m.Path
			}
		}
	}
	return ""
}

// consult has the API say whose the socket of an attachment is, and where its volume is mounted, as far as
// the network does not.
func (a *agent) consult(ctx context.Context, at *attach.Attachment) error {
	if a.Kube == nil || at.Kind != attach.VhostUser || at.Pod.Name == "" || at.Owner != nil && at.Mount != "" {
		return nil
	}
	pod, err := a.Kube.pod(ctx, at.Pod)
	if err != nil {
		return err
	}
	if at.Owner == nil {
		at.Owner = pod.owner()
	}
	if mount := pod.mount(at.Volume); at.Mount == "" && filepath.IsAbs(mount) {
		at.Mount = mount
	}
	return nil
}

// Annotations that users of the userspace CNI plugin read (app-netutil joins the two without a
// slash, and passes over what has an equals sign).
const (
	annotationDir  = "userspace/mapped-dir"
	annotationData = "userspace/configuration-data"
)

// announce puts what an application of the userspace CNI plugin reads into the pod's
// annotations, beside what is there of its other interfaces.
func (a *agent) announce(ctx context.Context, at *attach.Attachment, p place) error {
	if a.Kube == nil || !at.Userspace || at.Pod.Name == "" {
		return nil
	}
	_, entry, err := userspaceFile(at, p)
	if err != nil {
		return err
	}
	for range kubeTries {
		pod, err := a.Kube.pod(ctx, at.Pod)
		if err != nil {
			return err
		}
		list, err := withEntry(pod.Metadata.Annotations[annotationData], at.IfName, entry)
		if err != nil {
			return err
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"resourceVersion": pod.Metadata.Version, // refused if others were quicker
			"annotations":     map[string]string{annotationData: list, annotationDir: strings.TrimSuffix(filepath.Dir(p.inPod), "/") + "/"},
		}})
		if err != nil {
			return err
		}
		_, code, err := a.Kube.do(ctx, http.MethodPatch, at.Pod, patch)
		if code != http.StatusConflict {
			return err
		}
	}
	return fmt.Errorf("annotate pod %s/%s: others change it all the time", at.Pod.Namespace, at.Pod.Name)
}

// withEntry is a list of entries, in JSON, with that of one interface put in or exchanged.
func withEntry(list, ifName string, entry []byte) (string, error) {
	var entries, kept []json.RawMessage
	if err := json.Unmarshal([]byte(list), &entries); err != nil {
		entries = nil // none yet, or somebody else's nonsense
	}
	for _, e := range entries {
		var name struct {
			IfName string `json:"ifName"`
		}
		if json.Unmarshal(e, &name) == nil && name.IfName != ifName {
			kept = append(kept, e)
		}
	}
	text, err := json.Marshal(append(kept, entry))
	return string(text), err
}
