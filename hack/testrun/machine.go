package main

import (
	"os"
	"os/exec"
	"strings"
)

// A machine is what the run may expect of where it runs.
type machine struct {
	root   bool
	debian bool // apt-get and dpkg-query are there
	ci     bool // CI=true: a skip that a package would have cured is a failure
}

// lookAtMachine reads the user, the distribution and the environment.
func lookAtMachine() machine {
	m := machine{root: os.Geteuid() == 0, ci: os.Getenv("CI") == "true"}
	release, err := os.ReadFile("/etc/os-release")
	m.debian = err == nil && strings.Contains(string(release), "ID=debian") && has("apt-get") && has("dpkg-query")
	return m
}

// has reports whether name is a program in PATH.
func has(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
