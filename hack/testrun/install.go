package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"
)

// peers are the Debian packages whose programs the tests talk to.
var peers = []string{
	"buildah",                     // builds the image
	"busybox-static",              // the QEMU guest's user space
	"containernetworking-plugins", // IPAM plugins
	"clang",                       // to check that the XDP program is what its source says,
	"llvm",                        //
	"libbpf-dev",                  // with these
	"dpdk",                        //
	"dpdk-dev",                    // dpdk-testpmd
	"iperf3",                      //
	"strace",                      //
	"iproute2",                    // namespaces and veths of the tests
	"libprotobuf-dev",             // what .proto files import
	"linux-image-amd64",           // the QEMU guest's kernel; the machine keeps its own
	"nftables",                    // the NAT that nodes are behind
	"openvswitch-switch",          // ovsdb-server, ovs-vsctl, ovs-ofctl
	"openvswitch-switch-dpdk",     // the switch we are compared with
	"ovn-central",                 //
	"protobuf-compiler",           // to check that generated code is what its source says
	"python3-openvswitch",         // its database client
	"qemu-system-x86",             //
	"runc",                        // runs the image's containers
	"tshark",                      //
	"wireguard-tools",             // wg, for operators of tunnels
}

// services are what the packages above would run; the tests start their own.
var services = []string{"ovn-central", "ovn-northd", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb", "openvswitch-switch", "ovs-vswitchd", "ovsdb-server"}

// installTime bounds all of apt-get's work.
const installTime = 8 * time.Minute

// policyFile, when it is executable and answers 101, keeps maintainer scripts
// from starting services (invoke-rc.d(8)).
const policyFile = "/usr/sbin/policy-rc.d"

// installPeers installs the peers that are missing, or says why it does not.
// What cannot be installed shows later as skipped tests.
func (r *runner) installPeers(ctx context.Context) {
	if !r.machine.debian {
		r.leaveOut("installing peers: this is not Debian; tests whose peer is missing skip")
		return
	}
	missing := missingPackages(ctx, peers)
	switch {
	case len(missing) == 0:
		r.say("peers: all %d packages are installed", len(peers))
	case !r.machine.root:
		r.leaveOut("installing " + strings.Join(missing, " ") + ": needs root")
	default:
		r.say("peers: installing %s (some minutes)", strings.Join(missing, " "))
		start := time.Now()
		if err := install(ctx, missing); err != nil {
			r.say("peers: %v; the tests that need them will skip", err)
			return
		}
		r.say("peers: installed in %.0f s; no service of theirs runs", time.Since(start).Seconds())
	}
}

// leaveOut notes a part of the run that cannot be done here.
func (r *runner) leaveOut(what string) {
	r.say("left out: %s", what)
	r.leftOut = append(r.leftOut, what)
}

// missingPackages returns those of names that dpkg does not have installed.
func missingPackages(ctx context.Context, names []string) []string {
	// The exit status only says that some are unknown, as the output does.
	out, _ := exec.CommandContext(ctx, "dpkg-query", append([]string{"-W", "-f=${Package} ${db:Status-Status}\n"}, names...)...).Output()
	var missing []string
	for _, n := range names {
		if !bytes.Contains(append([]byte("\n"), out...), []byte("\n"+n+" installed\n")) {
			missing = append(missing, n)
		}
	}
	return missing
}

// install installs packages and sees to it that none of their services runs.
func install(ctx context.Context, packages []string) error {
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	restore, err := forbidServices()
	if err != nil {
		return err
	}
	defer restore()
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	if err := apt(ctx, append([]string{"install", "--no-install-recommends"}, packages...)...); err != nil {
		return err
	}
	stopServices(ctx)
	return nil
}

// apt runs apt-get without questions, and returns what it said when it fails.
func apt(ctx context.Context, args ...string) error {
	base := []string{"-qq", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"}
	cmd := exec.CommandContext(ctx, "apt-get", append(base, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, tail(out, 20))
	}
	return nil
}

// forbidServices puts a policy in place under which no service starts, and
// returns how to take it away. A policy that is there already stays.
func forbidServices() (restore func(), err error) {
	_, err = os.Lstat(policyFile)
	if err == nil {
		return func() {}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.WriteFile(policyFile, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return nil, fmt.Errorf("keep services from starting: %w", err)
	}
	return func() { os.Remove(policyFile) }, nil
}

// stopServices stops and disables what runs in spite of the policy. Errors are
// about services that do not exist or a machine without systemd.
func stopServices(ctx context.Context) {
	if !has("systemctl") {
		return
	}
	for _, s := range services {
		_ = exec.CommandContext(ctx, "systemctl", "--quiet", "disable", "--now", s).Run()
	}
}

// tail returns the last n lines of out.
func tail(out []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
