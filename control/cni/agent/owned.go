package agent

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"millrace/control/cni/attach"
)

// inodeOf is the inode number of the network namespace at a path; 0: there is none, or
// we do not see it.
func inodeOf(path string) uint64 {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if path == "" || unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC || unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// sameNetns is an error if the switch sees another network namespace at the pod's path than the plugin: a device would
// come into it, which may be the host's.
func sameNetns(at *attach.Attachment) error {
	if here := inodeOf(at.Netns); here != 0 && at.NetnsInode != 0 && here != at.NetnsInode {
		return attach.Errorf(attach.CodeRefused, "the switch sees another network namespace at %s than the container runtime: a switch in a container needs the host's /run/netns, or, for paths in /proc, hostPID: true and the capability SYS_PTRACE", at.Netns)
	}
	return nil
}

// gone reports whether the pod of an attachment is certainly not there any more: the
// host has been started anew since, or the network namespace, which we have seen,
// is not there. A namespace that we cannot see is no reason: where its path is
// an ordinary file, or its directory is not there, what is wrong is our view of the
// host.
func (r *record) gone(boot string) bool {
	if r.ofOtherBoot(boot) {
		return true
	}
	if r.netns == 0 {
		return false
	}
	if now := inodeOf(r.Netns); now != 0 {
		return now != r.netns
	}
	if strings.HasPrefix(r.Netns, "/proc/") {
		_, err := os.Stat("/proc/self/ns/net")
		_, missing := os.Stat(r.Netns)
		return err == nil && os.IsNotExist(missing)
	}
	if _, err := os.Lstat(r.Netns); !os.IsNotExist(err) {
		return false
	}
	st, err := os.Stat(filepath.Dir(r.Netns))
	return err == nil && st.IsDir()
}

// ofOtherBoot reports whether the host was started anew since the attachment was made.
func (r *record) ofOtherBoot(boot string) bool { return r.boot != "" && boot != "" && r.boot != boot }

// readBootID is what tells this boot of the host from others.
func readBootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
