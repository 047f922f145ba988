package pods

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"gopkg.in/yaml.v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// deployment is what pods of deploy/base/daemonset.yaml are.
func deployment(t *testing.T) *corev1.PodTemplateSpec {
	t.Helper()
	text, err := os.ReadFile("../../deploy/base/daemonset.yaml")
	check(t, err)
	var v map[string]any
	check(t, yaml.Unmarshal(text, &v))
	plain, err := json.Marshal(v)
	check(t, err)
	strict := json.NewDecoder(bytes.NewReader(plain))
	strict.DisallowUnknownFields()
	var set appsv1.DaemonSet
	check(t, strict.Decode(&set))
	return &set.Spec.Template
}

// container is one of a pod's, by its name.
func container(t *testing.T, spec *corev1.PodSpec, name string) *corev1.Container {
	t.Helper()
	all := append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...)
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	t.Fatalf("the DaemonSet has no container %s", name)
	return nil
}
