package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
)

// printRows prints the database as `ovs-vsctl show` does, with what the
// dataplane says of each port. It notes the names of the ports in asked.
func (p *picture) printRows(w io.Writer, asked map[string]bool) {
	v := p.rows
	if v.Root == nil {
		fmt.Fprintf(w, "database %s is empty: the first `millrace bridge add` or `ovs-vsctl init` fills it\n", p.endpoint)
		return
	}
	fmt.Fprintf(w, "database %s\n%s\n", p.endpoint, v.uuid)
	for _, m := range pick(v.managers, v.Root.ManagerOptions, func(m *model.Manager) string { return m.Target }) {
		fmt.Fprintf(w, "    Manager %q\n", m.Target)
		if m.IsConnected {
			fmt.Fprintln(w, "        is_connected: true")
		}
	}
	for _, b := range v.bridges() {
		p.printBridge(w, b, asked)
	}
	if v.Root.OVSVersion != nil {
		fmt.Fprintf(w, "    ovs_version: %q\n", *v.Root.OVSVersion)
	}
	if v.Root.CurCfg < v.Root.NextCfg {
		fmt.Fprintf(w, "    not in force yet: the database is at change %d, control at %d\n", v.Root.NextCfg, v.Root.CurCfg)
	}
}

func (p *picture) printBridge(w io.Writer, b *model.Bridge, asked map[string]bool) {
	fmt.Fprintf(w, "    Bridge %s\n", b.Name)
	if live := p.bridge(b.Name); live != nil {
		fmt.Fprintf(w, "        %s\n", learned(live))
	}
	if b.FailMode != nil {
		fmt.Fprintf(w, "        fail_mode: %s\n", *b.FailMode)
	}
	if b.DatapathType != "" {
		fmt.Fprintf(w, "        datapath_type: %s\n", b.DatapathType)
	}
	if problem := b.Status["error"]; problem != "" {
		fmt.Fprintf(w, "        error: %q\n", problem)
	}
	for _, port := range p.rows.portsOf(b) {
		p.printPort(w, port, asked)
	}
}

func (p *picture) printPort(w io.Writer, port *model.Port, asked map[string]bool) {
	fmt.Fprintf(w, "        Port %s\n", port.Name)
	if port.VLANMode != nil {
		fmt.Fprintf(w, "            vlan_mode: %s\n", *port.VLANMode)
	}
	if port.Tag != nil {
		fmt.Fprintf(w, "            tag: %d\n", *port.Tag)
	}
	if len(port.Trunks) > 0 {
		fmt.Fprintf(w, "            trunks: [%s]\n", vlanRanges(port.Trunks))
	}
	for _, i := range p.rows.interfacesOf(port) {
		asked[i.Name] = true
		p.printInterface(w, i)
	}
}

func (p *picture) printInterface(w io.Writer, i *model.Interface) {
	fmt.Fprintf(w, "            Interface %s\n", i.Name)
	if i.Type != "" {
		fmt.Fprintf(w, "                type: %s\n", i.Type)
	}
	if len(i.Options) > 0 {
		fmt.Fprint(w, "                options: {")
		for n, k := range slices.Sorted(maps.Keys(i.Options)) {
			fmt.Fprintf(w, "%s%s=%q", map[bool]string{true: ", "}[n > 0], k, i.Options[k])
		}
		fmt.Fprintln(w, "}")
	}
	if i.Error != nil {
		fmt.Fprintf(w, "                error: %q\n", *i.Error)
	}
	switch live := p.port(i.Name); {
	case live != nil:
		printLive(w, live)
	case p.info != nil && i.Type != bridge.TypeInternal:
		fmt.Fprintln(w, "            link: not in the dataplane")
	}
}

// json is the picture for programs: what the dataplane says, and what the
// database does.
func (p *picture) json() object {
	o := object{{"info", nil}, {"bridges", list(p.bridges)}, {"ports", p.types.list(p.ports)}, {"database", nil}, {"flows", flowsStatusJSON(p.flows)}, {"errors", p.errors()}}
	if p.info != nil {
		o[0].value = toJSON(p.info)
	}
	if v := p.rows; v != nil {
		db := object{{"endpoint", p.endpoint}, {"uuid", v.uuid}, {"ovs_version", nil}, {"next_cfg", 0}, {"cur_cfg", 0}, {"managers", []object{}}, {"bridges", p.bridgesJSON()}}
		if v.Root != nil {
			db[2].value, db[3].value, db[4].value = v.Root.OVSVersion, v.Root.NextCfg, v.Root.CurCfg
			managers := []object{}
			for _, m := range pick(v.managers, v.Root.ManagerOptions, func(m *model.Manager) string { return m.Target }) {
				managers = append(managers, object{{"target", m.Target}, {"is_connected", m.IsConnected}})
			}
			db[5].value = managers
		}
		o[3].value = db
	}
	return o
}

// errors says what could not be reached.
func (p *picture) errors() []string {
	all := []string{}
	for _, err := range []error{p.liveErr, p.dbErr} {
		if err != nil {
			all = append(all, err.Error())
		}
	}
	return all
}

func (p *picture) bridgesJSON() []object {
	all := []object{}
	for _, b := range p.rows.bridges() {
		ports := []object{}
		for _, port := range p.rows.portsOf(b) {
			ports = append(ports, p.portJSON(port))
		}
		o := bridgeJSON(p.rows, b)
		for i := range o {
			if o[i].name == "ports" {
				o[i].value = ports
			}
		}
		all = append(all, append(o, field{"datapath_type", b.DatapathType}, field{"fail_mode", b.FailMode}))
	}
	return all
}

func (p *picture) portJSON(port *model.Port) object {
	trunks := slices.Sorted(slices.Values(port.Trunks))
	if trunks == nil {
		trunks = []int{}
	}
	interfaces := []object{}
	for _, i := range p.rows.interfacesOf(port) {
		o := object{
			{"name", i.Name}, {"type", i.Type}, {"options", keys(i.Options)}, {"error", i.Error}, {"ofport", i.Ofport}, {"state", nil},
		}
		if live := p.port(i.Name); live != nil {
			o[5].value = toJSON(live.GetState())
		}
		interfaces = append(interfaces, o)
	}
	return object{{"name", port.Name}, {"tag", port.Tag}, {"trunks", trunks}, {"vlan_mode", port.VLANMode}, {"interfaces", interfaces}}
}
