package pods

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"

	"millrace/control/cni/agent"
	"millrace/perf/peers"
)

// example reads a manifest of deploy/examples.
func example(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy/examples", name))
	check(t, err)
	var v map[string]any
	check(t, yaml.Unmarshal(text, &v))
	plain, err := json.Marshal(v)
	check(t, err)
	check(t, json.Unmarshal(plain, into))
}

// exampleNetwork is the configuration of an example, as Multus gives it to the plugin.
func (n *node) exampleNetwork(t *testing.T, name string) []byte {
	t.Helper()
	var nad struct{ Spec struct{ Config string } }
	example(t, name, &nad)
	return with(t, []byte(nad.Spec.Config), "runDir", n.run)
}

// TestExamples: the pods of docs/kubernetes.md reach each other as it says: the ordinary one pings the DPDK application of the other, which runs by
// its command, as its user, without a right, with what the device plugin has given it. That of the userspace CNI plugin finds its socket's directory.
func TestExamples(t *testing.T) {
	peers.Need(t, "dpdk-testpmd")
	n := newNode(t)
	cover(t, "/var/lib") // host-local has its addresses there, and kubelet its pods
	cover(t, "/run")
	const slot = "br0-0"
	check(t, agent.MakeSlot(n.run, slot))
	check(t, os.Chmod(n.dir, 0o711))
	mnt := "/run/millrace/" + slot
	check(t, os.MkdirAll(mnt, 0o755))

	plain, dpdk := n.newPod(), n.newPod()
	_, err := plain.addByHand(n.exampleNetwork(t, "network-tap.yaml"))
	check(t, err)
	_, err = dpdk.addByHand(with(t, n.exampleNetwork(t, "network-vhost.yaml"), "deviceID", slot))
	check(t, err)
	var pod corev1.Pod
	example(t, "pod-testpmd.yaml", &pod)
	c := pod.Spec.Containers[0]
	app := n.startConfined(int(*pod.Spec.SecurityContext.RunAsUser), filepath.Join(n.run, agent.SlotsDir, slot), mnt, []string{"MILLRACE_SLOTS=" + slot}, append(c.Command, c.Args...)...)
	defer app.stop()
	eventually(t, "testpmd forwards", func() bool {
		select {
		case <-app.done:
			t.Fatalf("testpmd ended at once: %s", app.out)
		default:
		}
		return strings.Contains(app.out.String(), "Throughput")
	})
	if err := plain.Ping(t, netip.MustParseAddr("10.56.100.2"), 100, patience); err != nil {
		t.Errorf("%v\n%s", err, app.out)
	}

	old := n.newPod()
	example(t, "pod-userspace.yaml", &pod)
	conf := n.exampleNetwork(t, "network-userspace.yaml")
	volume := filepath.Join("/var/lib/kubelet/pods", old.Args[3][1], "volumes/kubernetes.io~empty-dir", pod.Spec.Volumes[0].Name)
	check(t, os.MkdirAll(volume, 0o777))
	_, err = old.addByHand(conf)
	check(t, err)
	text, err := os.ReadFile(filepath.Join(volume, "configData-"+old.ContainerID[:12]+"-net1.json"))
	if err != nil || !bytes.Contains(text, []byte(`"socketfile":"`+old.ContainerID[:12]+`-net1"`)) {
		t.Errorf("%s, %v", text, err)
	}
}
