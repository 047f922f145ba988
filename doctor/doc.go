// Package doctor examines a machine and the switch on it: what is wrong, what could be
// better, and what helps.
//
// A Check is small and looks at one thing. All that it reads is in its argument: files
// of the kernel's are read below a tree, so that a test gives it another one, and what
// the switch says has been asked for before.
//
//	kernel.go  release, BPF, AF_XDP, time stamp counter
//	cpu.go     the workers' CPUs: isolation, frequency, siblings, quotas
//	memory.go  limits, huge pages, memory that there is
//	rights.go  capabilities
//	rivals.go  other switches on the machine
//	device.go  network devices behind ports
//	running.go the processes of the switch, and its ports
package doctor

import (
	"cmp"
	"io/fs"
	"slices"
)

// A Grade says how much a finding matters, from nothing to all.
type Grade string

// The grades.
const (
	OK      Grade = "ok"
	Notice  Grade = "notice"  // could be better for some
	Warning Grade = "warning" // costs speed, or will fail one day
	Problem Grade = "problem" // something does not work
	Unknown Grade = "unknown" // could not be looked at
)

// grades are the grades as they stand in a report, the worst first.
var grades = []Grade{Problem, Warning, Unknown, Notice, OK}

// A Finding is what a check found, and what helps.
type Finding struct {
	Check  string `json:"check"`
	Grade  Grade  `json:"grade"`
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"` // empty: nothing is to be done, or What says it
}

// A Patient is all that checks look at.
type Patient struct {
	Tree    fs.FS                             // the root directory
	Root    bool                              // we are root
	Switch  *Switch                           // nil: none answers
	Absent  string                            // why not, in words
	Devices func(name string) (Device, error) // asks a driver; nil: cannot
}

// A Switch is what the dataplane says of itself.
type Switch struct {
	PID      int
	Workers  []int  // their CPUs
	Database string // its endpoint, such as unix:/run/openvswitch/db.sock; empty: not known
	Ports    []Port
	Problems []Finding // what `millrace status` says is wrong
}

// A Port is a port as its switch tells of it.
type Port struct {
	Name, Type string
	Link       string // waiting, setup, up, broken
	Reason     string // in words, unless it is up
	How        string // how it works and why so, where there was a choice
	Device     string // of the kernel; empty: none
	MTU        int    // of Device
	Received   uint64 // frames
	Dropped    uint64 // of them or on their way to it, for want of room
}

// A Device is what a driver says of a network device.
type Device struct {
	Driver       string
	Queues, Most int      // receive queues: those that there are, and could be
	InTheWay     []string // offloads that are on and in the way of AF_XDP
}

// A Check looks at one thing.
type Check struct {
	Name string
	Look func(*Patient) []Finding
}

// Checks are all checks, in the order of a report.
func Checks() []Check {
	return []Check{
		{"kernel", kernel}, {"af_xdp", sockets}, {"bpf", bpf}, {"clock", clock},
		{"rights", rights}, {"limits", limits}, {"hugepages", hugePages}, {"memory", memory},
		{"cpu isolation", isolation}, {"cpu frequency", frequency}, {"cpu siblings", siblings}, {"cpu quota", quota}, {"cpu steal", steal},
		{"rivals", rivals}, {"devices", devices},
		{"switch", running}, {"ports", ports},
	}
}

// Examine runs all checks. Findings come the worst first, and in the order of checks.
func Examine(p *Patient) []Finding {
	var all []Finding
	for _, c := range Checks() {
		for _, f := range c.Look(p) {
			f.Check = c.Name
			all = append(all, f)
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Compare(slices.Index(grades, a.Grade), slices.Index(grades, b.Grade))
	})
	return all
}

// Worst is the worst grade of findings. What could not be looked at counts as a notice.
func Worst(all []Finding) Grade {
	worst := OK
	for _, f := range all {
		g := f.Grade
		if g == Unknown {
			g = Notice
		}
		if slices.Index(grades, g) < slices.Index(grades, worst) {
			worst = g
		}
	}
	return worst
}
