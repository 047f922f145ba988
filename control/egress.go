package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"millrace/control/bridge"
	"millrace/control/egress/admin"
	"millrace/control/egress/agent"
	"millrace/control/egress/l3"
	"millrace/control/ovsdb/model"
)

// EgressDir is the directory of egress ports in the run directory. For each there is
// NAME.json, which says what its process shall be. The process follows it, and
// whoever supervises it starts one for each file: neither needs control for that.
const EgressDir = "egress"

// egressFile is the end of those files' names.
const egressFile = ".json"

// EgressPorts returns the names of the ports that files in a run directory tell of,
// sorted.
func EgressPorts(runDir string) ([]string, error) {
	list, err := os.ReadDir(filepath.Join(runDir, EgressDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range list {
		if name, ok := strings.CutSuffix(e.Name(), egressFile); ok {
			names = append(names, name)
		}
	}
	return names, err
}

// ReadEgress returns what the process of an egress port shall be. The error wraps
// fs.ErrNotExist if there is no such port, or no more.
func ReadEgress(runDir, name string) (bridge.Egress, error) {
	var e bridge.Egress
	path := filepath.Join(runDir, EgressDir, name+egressFile)
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err != nil {
		return bridge.Egress{}, fmt.Errorf("read %s: %w", path, err)
	}
	return e, nil
}

// EgressSocket is where the agent of an egress port is asked.
func EgressSocket(runDir, name string) string {
	return filepath.Join(runDir, EgressDir, name+".sock")
}

// egressEvery is how often agents are asked how they are.
const egressEvery = time.Second

// An egress is what control has to do with egress ports. The loop owns it but for
// what ask does.
type egress struct {
	runDir string
	log    *zap.Logger
	have   map[string]bridge.Egress // what files say; nil: not known

	asked atomic.Pointer[[]string] // ports with an agent
	news  chan map[string]*egressState
	told  map[string]*egressState // what agents have said last
}

// An egressState is what an Interface row has of an agent. It does not change.
type egressState struct {
	ready   bool
	servers string // connected, of those there are
	trouble string
}

func newEgress(runDir string, log *zap.Logger) *egress {
	return &egress{runDir: runDir, log: log, news: make(chan map[string]*egressState)}
}

// want has files say what egress ports there shall be.
func (e *egress) want(ports map[string]bridge.Egress) {
	if e.have == nil && !e.read(len(ports)) {
		return
	}
	dir := filepath.Join(e.runDir, EgressDir)
	for name, p := range ports {
		if old, ok := e.have[name]; ok && old.Equal(p) {
			continue
		}
		if err := writeJSON(dir, name+egressFile, p, false); err != nil {
			e.log.Error("an egress port cannot be told what it shall be", zap.String("port", name), zap.Error(err))
			continue
		}
		e.have[name] = p
	}
	for name := range e.have {
		if _, ok := ports[name]; ok {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name+egressFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.log.Error("an egress port cannot be told to end", zap.String("port", name), zap.Error(err))
			continue
		}
		delete(e.have, name)
	}
	e.count()
}

// read takes note of the files there are. It reports false if there is nothing to
// do: no file, and none wanted.
func (e *egress) read(wanted int) bool {
	names, err := EgressPorts(e.runDir)
	if err == nil && len(names)+wanted == 0 {
		return false
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(e.runDir, EgressDir), 0o700)
	}
	if err != nil {
		e.log.Error("no egress ports", zap.Error(err))
		return false
	}
	e.have = map[string]bridge.Egress{}
	for _, name := range names {
		e.have[name], _ = ReadEgress(e.runDir, name) // one that cannot be read is written anew
	}
	return true
}

// count tells ask whom to ask.
func (e *egress) count() {
	var names []string
	for name, p := range e.have {
		if p.Agent() {
			names = append(names, name)
		}
	}
	e.asked.Store(&names)
}

// ask asks all agents, again and again until ctx ends, and tells the loop when
// something is new.
func (e *egress) ask(ctx context.Context) {
	tick := time.NewTicker(egressEvery)
	defer tick.Stop()
	last := map[string]*egressState{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		names := e.asked.Load()
		if names == nil {
			continue
		}
		now, fresh := askAll(ctx, e.runDir, *names, last)
		if !fresh {
			continue
		}
		last = now
		select {
		case e.news <- now:
		case <-ctx.Done():
			return
		}
	}
}

// askAll asks agents, and reports whether anything is not as it was.
func askAll(ctx context.Context, runDir string, names []string, last map[string]*egressState) (now map[string]*egressState, fresh bool) {
	one, cancel := context.WithTimeout(ctx, egressEvery)
	defer cancel()
	answers := make([]*egressState, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { answers[i] = askOne(one, EgressSocket(runDir, name)) })
	}
	all.Wait()
	now = make(map[string]*egressState, len(names))
	for i, name := range names {
		if old := last[name]; old != nil && *old == *answers[i] {
			now[name] = old
			continue
		}
		now[name], fresh = answers[i], true
	}
	return now, fresh || len(now) != len(last)
}

func askOne(ctx context.Context, socket string) *egressState {
	var s struct {
		agent.Status
		Peers []l3.PeerStatus `json:"peers"` // if it is a tunnel
	}
	if err := admin.Ask(ctx, socket, "/status", nil, &s); errors.Is(err, admin.ErrNoAgent) {
		return &egressState{trouble: "its process does not run"}
	} else if err != nil {
		return &egressState{trouble: err.Error()}
	}
	for _, p := range s.Peers {
		if s.ServersKnown++; p.Up {
			s.ServersUp++
		}
	}
	return &egressState{ready: s.Ready, servers: fmt.Sprintf("%d of %d", s.ServersUp, max(s.ServersKnown, s.ServersUp)), trouble: s.Trouble}
}

// egressRow adds what an agent says of itself to the row of its port.
func egressRow(row *model.Interface, v bridge.InterfaceView, s *egressState) {
	if v.Type != bridge.TypeEgress || s == nil || row.Status == nil {
		return
	}
	row.Status["ready"] = fmt.Sprint(s.ready)
	if s.servers != "" {
		row.Status["servers"] = s.servers
	}
	if s.trouble != "" && !s.ready {
		row.Status["trouble"] = s.trouble
	}
}

// portTypes are the types of ports that rows may have: those of the dataplane, and
// what comes of them.
func (l *loop) portTypes() []string {
	types := l.session.client.Info.GetPortTypes()
	if l.cfg.Agent != nil {
		types = append(types[:len(types):len(types)], bridge.TypeEgress)
	}
	return types
}
