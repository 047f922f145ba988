package pods

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// memlock is less than an AF_XDP port locks, in bytes: hosts' limits differ, a capability lifts them.
const memlock = 64 << 10

// runContainer is the command line that runs a container of a pod by runc as containerd has runc run it: in the network namespace of the
// host, with the capabilities, mounts and limits that the manifest gives it, and nothing else. Its image is unpacked at root.
func (n *node) runContainer(t *testing.T, root string, spec *corev1.PodSpec, c *corev1.Container) []string {
	t.Helper()
	bundle := filepath.Join(n.dir, "bundle-"+c.Name)
	check(t, os.MkdirAll(bundle, 0o755))
	text, err := json.Marshal(n.runtimeSpec(t, root, spec, c))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600))
	id, state := filepath.Base(n.dir)+"-"+c.Name, filepath.Join(n.dir, "runc")
	t.Cleanup(func() { _ = exec.Command("runc", "--root", state, "delete", "--force", id).Run() })
	return []string{"runc", "--root", state, "run", "--bundle", bundle, id}
}

// runtimeSpec is the configuration of the OCI runtime specification.
func (n *node) runtimeSpec(t *testing.T, root string, spec *corev1.PodSpec, c *corev1.Container) fields {
	t.Helper()
	sc := c.SecurityContext
	caps := []string{}
	for _, name := range sc.Capabilities.Add {
		caps = append(caps, "CAP_"+string(name))
	}
	if len(sc.Capabilities.Drop) != 1 || sc.Capabilities.Drop[0] != "ALL" || sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation {
		t.Fatalf("container %s keeps rights that it does not name", c.Name)
	}
	command := c.Command
	if len(command) == 0 {
		command = []string{"/bin/millrace"} // the image's entry point
	}
	args := append(append([]string{}, command...), c.Args...)
	return fields{
		"ociVersion": "1.0.2",
		"root":       fields{"path": root, "readonly": true},
		"hostname":   "node",
		"mounts":     append(standardMounts(), volumeMounts(t, spec, c)...),
		"process": fields{
			"user": fields{"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"capabilities": fields{"bounding": caps, "effective": caps, "permitted": caps}, "noNewPrivileges": true,
			"rlimits": []any{fields{"type": "RLIMIT_MEMLOCK", "hard": memlock, "soft": memlock}},
		},
		"linux": fields{
			"namespaces":  []any{fields{"type": "pid"}, fields{"type": "ipc"}, fields{"type": "uts"}, fields{"type": "mount"}},
			"cgroupsPath": "/" + filepath.Base(n.dir) + "-" + c.Name,
			"resources": fields{"devices": []any{fields{"allow": false, "access": "rwm"}},
				"memory": fields{"limit": c.Resources.Limits.Memory().Value()}},
			"maskedPaths":   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			"readonlyPaths": []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// standardMounts are those of each container that is not privileged.
func standardMounts() []any {
	m := func(to, kind string, options ...string) any {
		return fields{"destination": to, "type": kind, "source": kind, "options": append([]string{"nosuid", "noexec"}, options...)}
	}
	return []any{
		m("/proc", "proc", "nodev"), m("/dev", "tmpfs", "strictatime", "mode=755", "size=65536k"), m("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620"),
		m("/dev/shm", "tmpfs", "nodev", "mode=1777", "size=65536k"), m("/sys", "sysfs", "nodev", "ro"),
	}
}

// volumeMounts are a container's own mounts; directories of the host are made where the manifest says so.
func volumeMounts(t *testing.T, spec *corev1.PodSpec, c *corev1.Container) (list []any) {
	t.Helper()
	for _, m := range c.VolumeMounts {
		for _, v := range spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			if *v.HostPath.Type == corev1.HostPathDirectoryOrCreate {
				check(t, os.MkdirAll(v.HostPath.Path, 0o755))
			}
			how := "rprivate"
			if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationHostToContainer {
				how = "rslave"
			}
			list = append(list, fields{"destination": m.MountPath, "type": "bind", "source": v.HostPath.Path, "options": []string{"rbind", "rw", how}})
		}
	}
	return list
}
