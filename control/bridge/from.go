package bridge

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"millrace/control/ovsdb/model"
)

// nameMax is the longest name in bytes that the dataplane takes.
const nameMax = 255

// A reader goes through the rows once.
type reader struct {
	rows   Rows
	policy Policy
	state  *State

	sorted    map[string][]*model.Port // of a bridge, by name
	bridgesOf map[string][]string      // names of the bridges that a Port row is in
	portsOf   map[string][]string      // names of the ports that an Interface row is in
	names     map[string]int           // how many Interface rows have a name
	found     []*found
}

// found is an interface on its way into the state.
type found struct {
	row    *model.Interface
	port   *model.Port
	bridge *model.Bridge
	want   Port
	view   InterfaceView
	fatal  bool    // the port cannot be had
	hosted bool    // the host's end of a bridge, and a device
	egress *Egress // of an egress port
	texts  []string
}

// From reads rows. It touches nothing but its arguments.
func From(rows Rows, policy Policy) *State {
	r := &reader{rows: rows, policy: policy, state: &State{
		Ports: map[string]Port{}, Bridges: map[string]Bridge{}, PortErrors: map[string]string{}, Egress: map[string]Egress{}, Stats: StatsDefault,
	}, sorted: map[string][]*model.Port{}, bridgesOf: map[string][]string{}, portsOf: map[string][]string{}, names: map[string]int{}}
	if rows.Root == nil {
		return r.state
	}
	r.policy.Follow = once(policy.Follow)
	r.root()
	bridges := r.bridges()
	for _, b := range bridges {
		r.index(b)
	}
	for _, b := range bridges {
		r.bridge(b)
	}
	r.patches()
	r.wires()
	r.number()
	r.finish()
	return r.state
}

// bridges returns the bridges by name.
func (r *reader) bridges() []*model.Bridge {
	var list []*model.Bridge
	for _, uuid := range unique(r.rows.Root.Bridges) {
		if b := r.rows.Bridges[uuid]; b != nil {
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(a, b *model.Bridge) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID)) })
	return list
}

// once asks follow about each directory once: a thousand ports share a few.
func once(follow func(string) (string, error)) func(string) (string, error) {
	if follow == nil {
		return nil
	}
	type answer struct {
		path string
		err  error
	}
	known := map[string]answer{}
	return func(dir string) (string, error) {
		a, ok := known[dir]
		if !ok {
			a.path, a.err = follow(dir)
			known[dir] = a
		}
		return a.path, a.err
	}
}

// unique is a set as it should be: the database says nothing twice, others may.
func unique(uuids []string) []string {
	if len(uuids) < 2 {
		return uuids
	}
	list := slices.Clone(uuids)
	slices.Sort(list)
	return slices.Compact(list)
}

// portsIn returns the ports of a bridge by name.
func (r *reader) portsIn(b *model.Bridge) []*model.Port {
	if list, ok := r.sorted[b.UUID]; ok {
		return list
	}
	list := make([]*model.Port, 0, len(b.Ports))
	for _, uuid := range unique(b.Ports) {
		if p := r.rows.Ports[uuid]; p != nil {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *model.Port) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID)) })
	r.sorted[b.UUID] = list
	return list
}

// interfacesOf returns the interfaces of a port by name.
func (r *reader) interfacesOf(p *model.Port) []*model.Interface {
	var list []*model.Interface
	for _, uuid := range unique(p.Interfaces) {
		if i := r.rows.Interfaces[uuid]; i != nil {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b *model.Interface) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return list
}

// index notes where each row is used.
func (r *reader) index(b *model.Bridge) {
	for _, p := range r.portsIn(b) {
		r.bridgesOf[p.UUID] = append(r.bridgesOf[p.UUID], b.Name)
		if len(r.bridgesOf[p.UUID]) > 1 {
			continue
		}
		for _, i := range r.interfacesOf(p) {
			r.portsOf[i.UUID] = append(r.portsOf[i.UUID], p.Name)
			if len(r.portsOf[i.UUID]) == 1 {
				r.names[i.Name]++
			}
		}
	}
}

// fault notes what is wrong with a row that is neither port nor interface.
func (r *reader) fault(table, row, column string, err error) {
	r.state.Errors = append(r.state.Errors, &RowError{table, row, column, err})
}

// warn notes what is wrong with an interface, which can be had all the same.
func (r *reader) warn(f *found, column string, err error) {
	if err != nil {
		r.fault("Interface", f.row.Name, column, err)
		f.texts = append(f.texts, column+": "+err.Error())
	}
}

// refuse notes why an interface cannot be had.
func (r *reader) refuse(f *found, column string, err error) {
	if err != nil {
		f.fatal = true
		r.warn(f, column, err)
	}
}

// port reads a port of bridge b, and its interfaces.
func (r *reader) port(b *model.Bridge, p *model.Port, why error) {
	if r.bridgesOf[p.UUID][0] != b.Name {
		return // was read with its first bridge
	}
	interfaces := r.interfacesOf(p)
	for _, row := range interfaces {
		if r.portsOf[row.UUID][0] != p.Name {
			continue
		}
		f := &found{row: row, port: p, bridge: b, view: InterfaceView{UUID: row.UUID, Name: row.Name, Type: row.Type}}
		r.found = append(r.found, f)
		r.refuse(f, "bridge", why)
		if in := r.bridgesOf[p.UUID]; len(in) > 1 {
			r.refuse(f, "ports", conflict("port %s is in bridges %s: take it out of all but one", short(p.Name), short(strings.Join(in, " and "))))
		}
		if in := r.portsOf[row.UUID]; len(in) > 1 {
			r.refuse(f, "interfaces", conflict("interface is in ports %s: take it out of all but one", short(strings.Join(in, " and "))))
		}
		if r.names[row.Name] > 1 {
			r.refuse(f, "name", conflict("%d interfaces have this name", r.names[row.Name]))
		}
		if len(interfaces) > 1 {
			r.refuse(f, "interfaces", notYet("port %s has %d interfaces: bonds come later", short(p.Name), len(interfaces)))
		}
		r.iface(f)
	}
}

// badName says what is wrong with a name.
func badName(s string) error {
	switch {
	case s == "" || s == "." || s == "..":
		return bad("%q is no name", s)
	case len(s) > nameMax:
		return bad("name of %d bytes is longer than %d", len(s), nameMax)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c == '/' || unicode.IsControl(c) }):
		return bad("name %q has a slash or a control character", short(s))
	}
	return nil
}

// finish gives the state what was found.
func (r *reader) finish() {
	for _, f := range r.found {
		f.view.Error = strings.Join(f.texts, "; ")
		if f.view.Error != "" {
			r.state.PortErrors[f.port.UUID] = f.view.Error
		}
		switch {
		case f.fatal:
			f.view.Ofport = OfportBad
		case !f.view.Local || f.hosted:
			f.view.Wanted = true
			r.state.Ports[f.want.Name] = f.want
			if f.egress != nil {
				r.state.Egress[f.want.Name] = *f.egress
			}
		}
		r.state.Interfaces = append(r.state.Interfaces, f.view)
	}
	slices.SortFunc(r.state.Interfaces, func(a, b InterfaceView) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	slices.SortStableFunc(r.state.Errors, func(a, b *RowError) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Row, b.Row), cmp.Compare(a.Column, b.Column))
	})
}
