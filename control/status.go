package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"millrace/control/bridge"
	"millrace/control/flows"
)

// A Status is control's account of itself, as control.json in the run
// directory has it.
type Status struct {
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Written  time.Time `json:"written"` // when the rest was true
	Database Database  `json:"database"`

	Dataplane bool     `json:"dataplane"` // connected
	Ports     int      `json:"ports"`     // in the dataplane
	BadRows   []string `json:"bad_rows"`  // what is wrong with which row
	Problems  []string `json:"problems"`  // what else is not as it should be, with remedies
	Counters  Counters `json:"counters"`
	Flows     Flows    `json:"flows"`
}

// Flows says how rows of the Millrace database are.
type Flows struct {
	Database  Database `json:"database"`
	Available bool     `json:"available"` // there are a database and a dataplane that have flows
	Reason    string   `json:"reason"`    // why not, in words
	flows.Tally

	Changes      uint64  `json:"changes"`      // made to the flow table
	Failures     uint64  `json:"failures"`     // changes that the dataplane refused
	Transactions uint64  `json:"transactions"` // made in the database
	LastSeconds  float64 `json:"last_seconds"` // how long the last transaction of the flow table took, from rows to in force
}

// A Database says how control and its database are.
type Database struct {
	Endpoint  string    `json:"endpoint"` // connected to, or last
	Connected bool      `json:"connected"`
	Owner     bool      `json:"owner"`   // holds the database's lock
	Since     time.Time `json:"since"`   // when connected became what it is
	Error     string    `json:"error"`   // why it is not connected
	Offline   bool      `json:"offline"` // what is wanted comes from the file of the last run
}

// Counters count since control began.
type Counters struct {
	Passes       uint64  `json:"passes"`
	Changes      uint64  `json:"changes"`      // made to the dataplane
	Failures     uint64  `json:"failures"`     // changes that the dataplane refused
	BadRows      uint64  `json:"bad_rows"`     // rows that became bad
	Transactions uint64  `json:"transactions"` // made in the database
	Sessions     uint64  `json:"sessions"`     // with a dataplane
	Last         string  `json:"last"`         // last pass that changed something: "3 ports, 1.2ms"
	LastSeconds  float64 `json:"last_seconds"` // how long it took
}

// saidMax is how many rows are named in the log at once. All are in the status.
const saidMax = 100

// complain logs what is newly wrong with rows, and what no longer is.
func (l *loop) complain() {
	now := make(map[string]bool, len(l.want.Errors))
	l.status.BadRows = nil
	fresh, healed := 0, 0
	for _, e := range l.want.Errors {
		s := e.Error()
		now[s] = true
		l.status.BadRows = append(l.status.BadRows, s)
		if l.said[s] {
			continue
		}
		l.status.Counters.BadRows++
		if fresh++; fresh <= saidMax {
			l.log.Warn("bad row", zap.String("table", e.Table), zap.String("row", e.Row[:min(len(e.Row), 255)]), zap.String("column", e.Column), zap.Error(e.Err))
		}
	}
	for s := range l.said {
		if now[s] {
			continue
		}
		if healed++; healed <= saidMax {
			l.log.Info("row is good again", zap.String("was", s))
		}
	}
	if fresh > saidMax || healed > saidMax {
		l.log.Warn("more rows than are named here: control.json has all that are bad", zap.Int("newly_bad", fresh), zap.Int("good_again", healed))
	}
	l.said = now
}

// summary says what changes do, in few words.
func summary(changes []bridge.Change, took time.Duration) string {
	ports := map[string]bool{}
	bridges, workers := 0, false
	for _, c := range changes {
		switch c.Kind {
		case bridge.SetBridge:
			bridges++
		case bridge.SetWorkers:
			workers = true
		default:
			ports[c.Port.Name] = true
		}
	}
	var parts []string
	for _, n := range []struct {
		n    int
		what string
	}{{len(ports), "port"}, {bridges, "bridge"}} {
		switch {
		case n.n == 1:
			parts = append(parts, "1 "+n.what)
		case n.n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n.n, n.what))
		}
	}
	if workers {
		parts = append(parts, "workers")
	}
	return fmt.Sprintf("%s, %.1f ms", strings.Join(parts, ", "), 1000*took.Seconds())
}

// soon has the files written in a moment.
func (l *loop) soon() {
	if !l.dirty {
		l.dirty = true
		l.tidy.Reset(tidyAfter)
	}
}

// write has the files brought up to date.
func (l *loop) write() {
	l.dirty = false
	var d *desired
	if l.want != nil && !l.saved && l.seen {
		d, l.saved = ptr(newDesired(l.want)), true
	}
	s := l.status
	s.Written, s.Problems = time.Now(), l.problems()
	s.Flows = l.flowStatus()
	if l.plant != nil {
		s.Ports = len(l.plant.ports)
	}
	l.files.put(d, &s)
}

// because is why, behind what is not as it should be; nothing if that is not known yet.
func because(err string) string {
	if err == "" {
		return ""
	}
	return ": " + err
}

// problems says what is not as it should be, besides rows.
func (l *loop) problems() []string {
	var p []string
	d := l.status.Database
	switch {
	case d.Offline:
		p = append(p, "database not reached since the start, ports are those of the last run"+because(d.Error))
	case !d.Connected:
		p = append(p, "database not reached, the configuration stays as it is"+because(d.Error))
	case !d.Owner:
		p = append(p, "another switch holds the database's lock "+databaseLock+": stop it")
	case l.book.rows.Root == nil:
		p = append(p, "database is empty: run `ovs-vsctl init`")
	}
	if l.session == nil {
		p = append(p, "no dataplane: `millrace run` restarts it, or start `millrace dataplane`")
	}
	for _, name := range slices.Sorted(maps.Keys(l.failed)) {
		p = append(p, "port "+name+": "+l.failed[name].text)
	}
	p = append(p, l.flowProblems()...)
	if f := l.misplaced; f != nil && l.plant != nil {
		p = append(p, fmt.Sprintf("workers stay on CPUs %v: other_config:pmd-cpu-mask of the Open_vSwitch row asks for CPUs %v: %s", l.plant.workers, f.cpus, f.text))
	}
	return p
}
