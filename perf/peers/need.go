package peers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// A MissingError says that something a peer needs is not on this machine.
type MissingError struct {
	What   string // a program, or another thing such as hugepages
	Remedy string // the command that brings it
}

// Error begins with "needs", as a skipped test's reason does.
func (e *MissingError) Error() string { return "needs " + e.What + ": " + e.Remedy }

// A tool is a program that a peer runs.
type tool struct {
	paths []string // where it may be, best first; a bare name is looked up in PATH and the sbin directories
	pkg   string   // the Debian package that has it
}

// tools returns the programs by the names that Need and the peers use.
func tools() map[string]tool {
	return map[string]tool{
		"dpdk-testpmd":       {[]string{"dpdk-testpmd"}, "dpdk-dev"},
		"ovs-vswitchd-dpdk":  {[]string{"/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"}, "openvswitch-switch-dpdk"},
		"ovsdb-server":       {[]string{"ovsdb-server"}, "openvswitch-switch"},
		"ovsdb-tool":         {[]string{"ovsdb-tool"}, "openvswitch-switch"},
		"ovs-vsctl":          {[]string{"ovs-vsctl"}, "openvswitch-switch"},
		"ovs-ofctl":          {[]string{"ovs-ofctl"}, "openvswitch-switch"},
		"ovs-appctl":         {[]string{"ovs-appctl"}, "openvswitch-switch"},
		"qemu-system-x86_64": {[]string{"qemu-system-x86_64"}, "qemu-system-x86"},
		"busybox":            {[]string{"/usr/bin/busybox", "/bin/busybox"}, "busybox-static"},
		"tshark":             {[]string{"tshark"}, "tshark"},
		"iperf3":             {[]string{"iperf3"}, "iperf3"},
		"strace":             {[]string{"strace"}, "strace"},
		"nft":                {[]string{"nft"}, "nftables"},
	}
}

// find returns the path of the program called name.
func find(name string) (string, error) {
	t, known := tools()[name]
	if !known {
		return "", fmt.Errorf("find %s: peers knows no such program", name)
	}
	for _, p := range t.paths {
		candidates := []string{p}
		if !filepath.IsAbs(p) {
			candidates = append(candidates, "/usr/sbin/"+p, "/sbin/"+p, "/usr/local/sbin/"+p)
		}
		for _, c := range candidates {
			if path, err := exec.LookPath(c); err == nil {
				return path, nil
			}
		}
	}
	return "", &MissingError{name, "apt-get install " + t.pkg}
}

// Missing returns a MissingError for the first of names that this machine
// lacks, or nil. A name is a program, or one of the peers: "ovs-dpdk" and
// "qemu" stand for all that OVSDPDK and QEMUGuest run; "hugepages" for the
// right to reserve some; "root".
func Missing(names ...string) error {
	for _, name := range names {
		var err error
		switch name {
		case "ovs-dpdk":
			err = Missing("ovs-vswitchd-dpdk", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "root", "hugepages")
		case "qemu":
			if err = Missing("qemu-system-x86_64", "busybox"); err == nil {
				_, err = guestKernel()
			}
		case "hugepages":
			err = canReserve()
		case "root":
			if os.Geteuid() != 0 {
				err = &MissingError{"root", "run as root"}
			}
		default:
			_, err = find(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Need skips the test when the machine lacks one of names (see Missing), with
// a reason that begins with "needs", and in -short runs, which leave out peers.
func Need(t testing.TB, names ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("short run: leaves out real peers")
	}
	SkipMissing(t, Missing(names...))
}

// SkipMissing skips the test when err says that something is missing.
func SkipMissing(t testing.TB, err error) {
	t.Helper()
	var missing *MissingError
	if errors.As(err, &missing) {
		t.Skip(missing.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newest returns the last in version order of the files that match pattern.
func newest(pattern string) (string, bool) {
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		return "", false
	}
	return slices.MaxFunc(names, compareVersions), true
}

// compareVersions orders names as ls -v does: runs of digits count as numbers.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		if digit(a[0]) && digit(b[0]) {
			x, restA := number(a)
			y, restB := number(b)
			if x != y {
				return x - y
			}
			a, b = restA, restB
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// digit reports whether c is one.
func digit(c byte) bool { return '0' <= c && c <= '9' }

// number reads the number that s begins with.
func number(s string) (n int, rest string) {
	for s != "" && digit(s[0]) {
		n, s = n*10+int(s[0]-'0'), s[1:]
	}
	return n, s
}
