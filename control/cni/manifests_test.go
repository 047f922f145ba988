package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A network is the resource of Multus.
type network struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Config string `json:"config"`
	} `json:"spec"`
}

// A kustomization is as much of kustomize's file as we use.
type kustomization struct {
	metav1.TypeMeta `json:",inline"`
	Namespace       string   `json:"namespace"`
	Resources       []string `json:"resources"`
	Images          []struct {
		Name    string `json:"name"`
		NewName string `json:"newName"`
		NewTag  string `json:"newTag"`
	} `json:"images"`
	Patches []struct {
		Patch string `json:"patch"`
	} `json:"patches"`
}

// kinds are the types of what is in manifests.
func kinds() map[string]any {
	return map[string]any{
		"v1 Namespace": &corev1.Namespace{}, "v1 ServiceAccount": &corev1.ServiceAccount{}, "v1 Pod": &corev1.Pod{}, "apps/v1 DaemonSet": &appsv1.DaemonSet{},
		"rbac.authorization.k8s.io/v1 ClusterRole": &rbacv1.ClusterRole{}, "rbac.authorization.k8s.io/v1 ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
		"k8s.cni.cncf.io/v1 NetworkAttachmentDefinition": &network{}, "kustomize.config.k8s.io/v1beta1 Kustomization": &kustomization{},
	}
}

// read reads the documents of a manifest as the API server would: a field that their types do not have is an
// error.
func read(text []byte) (list []any, err error) {
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var v map[string]any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return list, err
		}
		kind := fmt.Sprint(v["apiVersion"], " ", v["kind"])
		object := kinds()[kind]
		if object == nil {
			return list, fmt.Errorf("kind %s", kind)
		}
		plain, err := json.Marshal(v)
		if err != nil {
			return list, err
		}
		strict := json.NewDecoder(bytes.NewReader(plain))
		strict.DisallowUnknownFields()
		if err := strict.Decode(object); err != nil {
			return list, fmt.Errorf("%s: %w", kind, err)
		}
		list = append(list, object)
	}
}

// TestManifests: what is applied is such as the API server takes, with no field that it would pass over;
// the switch is not privileged; what kustomize puts together is there.
func TestManifests(t *testing.T) {
	names, _ := filepath.Glob("../../deploy/*/*.yaml")
	if len(names) < 10 {
		t.Fatalf("there are only %v", names)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		list, err := read(text)
		if err != nil || len(list) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(string(text), "privileged: true") {
			t.Errorf("%s has a container with all rights", name)
		}
		for _, o := range list {
			switch o := o.(type) {
			case *kustomization:
				o.check(t, filepath.Dir(name))
			case *appsv1.DaemonSet:
				mounted(t, name, &o.Spec.Template.Spec)
				unconfined(t, name, &o.Spec.Template.Spec)
			case *corev1.Pod:
				mounted(t, name, &o.Spec)
			}
		}
	}
}

// check looks for what a kustomization names.
func (k *kustomization) check(t *testing.T, dir string) {
	t.Helper()
	for _, r := range k.Resources {
		if _, err := os.Stat(filepath.Join(dir, r)); err != nil {
			t.Error(err)
		}
	}
	for _, p := range k.Patches {
		if list, err := read([]byte(p.Patch)); err != nil || len(list) != 1 {
			t.Errorf("%s: patch %q: %v", dir, p.Patch, err)
		}
	}
}

// mounted fails the test unless what containers mount is there, and what is there is mounted.
func mounted(t *testing.T, name string, spec *corev1.PodSpec) {
	t.Helper()
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = false
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		for _, m := range c.VolumeMounts {
			if _, there := volumes[m.Name]; !there {
				t.Errorf("%s: container %s mounts %s, which there is not", name, c.Name, m.Name)
			}
			volumes[m.Name] = true
		}
	}
	for v, used := range volumes {
		if !used {
			t.Errorf("%s: nobody mounts %s", name, v)
		}
	}
}

// unconfined fails the test unless each container that mounts something of the host's is of the SELinux type that may write there: others may
// not, whatever their capabilities.
func unconfined(t *testing.T, name string, spec *corev1.PodSpec) {
	t.Helper()
	host := map[string]bool{}
	for _, v := range spec.Volumes {
		host[v.Name] = v.HostPath != nil
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		mounts := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return host[m.Name] })
		s := c.SecurityContext
		if mounts && (s == nil || s.SELinuxOptions == nil || s.SELinuxOptions.Type != "spc_t") {
			t.Errorf("%s: container %s mounts directories of the host and is confined by SELinux", name, c.Name)
		}
	}
}

// TestManifestsRead: a field that is not there is not passed over.
func TestManifestsRead(t *testing.T) {
	for _, text := range []string{
		"apiVersion: v1\nkind: Pod\nspec: {container: []}\n", "apiVersion: v1\nkind: Nothing\n", "apiVersion: apps/v1\nkind: DaemonSet\nspec: {template: {spec: {hostNetwork: perhaps}}}\n", "a: [",
	} {
		if list, err := read([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, list)
		}
	}
}
