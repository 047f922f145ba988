package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"millrace/control"
	"millrace/control/bridge"
	"millrace/dataplane/api"
)

func (a *app) showCmd() *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show what the database asks for and what runs",
		Long: `Shows the database as ` + "`ovs-vsctl show`" + ` does, and with each port how far it has come
in the dataplane, and what is missing where it does not forward. If the database or
the dataplane cannot be reached, it says so and shows the other.

A port's link is one of

  waiting  no peer is there
  setup    the peer has connected and has not set up its rings
  up       forwards
  broken   the peer misbehaved; it recovers by resetting or reconnecting`,
		Example: `  millrace show
  millrace show --json | jq '.ports[] | select(.state.link != "up") | .spec.name'
  millrace show --db unix:/run/openvswitch/db.sock`,
		Args: exactly(),
	}
	db.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		p, err := a.look(ctx, &db)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(p.json())
		}
		p.print(a.out)
		return nil
	}
	return cmd
}

// A picture is what there is, as far as it can be seen.
type picture struct {
	endpoint string   // of the database
	rows     *vswitch // nil: dbErr says why
	dbErr    error
	info     *api.GetInfoResponse // nil: liveErr says why
	bridges  []*api.Bridge
	ports    []*api.Port
	types    rowTypes
	liveErr  error
	flows    *control.Flows // nil: control tells nothing
}

// look reads the database and asks the dataplane. It is an error if neither
// can be reached.
func (a *app) look(ctx context.Context, f *dbFlags) (*picture, error) {
	p := &picture{types: a.rowTypes()}
	d, err := a.dialDB(ctx, f)
	if err == nil {
		defer d.Close()
		p.endpoint = d.Endpoint()
		p.rows, err = d.read(ctx)
	}
	p.dbErr = err
	p.liveErr = p.ask(ctx, a.runDir)
	if s, err := control.ReadStatus(a.runDir); err == nil {
		p.flows = &s.Flows
	}
	if p.dbErr != nil && p.liveErr != nil {
		if len(f.db) > 0 {
			return nil, p.dbErr
		}
		return nil, p.liveErr
	}
	return p, nil
}

// ask asks the dataplane.
func (p *picture) ask(ctx context.Context, runDir string) error {
	c, err := api.Dial(ctx, runDir, api.Patience(restartPatience))
	if err != nil {
		return err
	}
	defer c.Close()
	bridges, err := c.ListBridges(ctx, &api.ListBridgesRequest{})
	if err != nil {
		return err
	}
	ports, err := c.ListPorts(ctx, &api.ListPortsRequest{})
	if err != nil {
		return err
	}
	p.info, p.bridges, p.ports = c.Info, bridges.GetBridges(), ports.GetPorts()
	return nil
}

// port returns what the dataplane has by a name, or nil.
func (p *picture) port(name string) *api.Port {
	for _, port := range p.ports {
		if port.GetSpec().GetName() == name {
			return port
		}
	}
	return nil
}

// bridge returns what the dataplane has by a name, or nil.
func (p *picture) bridge(name string) *api.Bridge {
	for _, b := range p.bridges {
		if b.GetName() == name {
			return b
		}
	}
	return nil
}

// print prints the picture for people.
func (p *picture) print(w io.Writer) {
	if p.info != nil {
		fmt.Fprintln(w, headline(p.info))
	} else {
		fmt.Fprintf(w, "dataplane: %v\n", p.liveErr)
	}
	asked := map[string]bool{}
	if p.rows != nil {
		p.printRows(w, asked)
	} else {
		fmt.Fprintf(w, "database: %v\n", p.dbErr)
	}
	if line := flowTally(p.flows, p.runFlows()); line != "" && p.runFlows() {
		fmt.Fprintf(w, "    flows: %s\n", line)
	}
	p.printUnasked(w, asked)
	for _, u := range p.info.GetUnrestored() {
		fmt.Fprintf(w, "    not restored: %s: %s\n", u.GetWhat(), u.GetError())
	}
}

// runFlows reports whether a bridge runs flows, or shall.
func (p *picture) runFlows() bool {
	if p.rows != nil {
		for _, b := range p.rows.bridges() {
			if pipelineOf(b) == string(bridge.Flows) {
				return true
			}
		}
	}
	return slices.ContainsFunc(p.bridges, func(b *api.Bridge) bool { return b.GetPipeline() == api.Pipeline_PIPELINE_FLOWS })
}

// printUnasked prints what the dataplane has and no row asks for.
func (p *picture) printUnasked(w io.Writer, asked map[string]bool) {
	last := ""
	for _, b := range p.bridges {
		for _, port := range p.ports {
			s := port.GetSpec()
			if s.GetBridge() != b.GetName() || asked[s.GetName()] {
				continue
			}
			if b.GetName() != last {
				last = b.GetName()
				fmt.Fprintf(w, "    Bridge %s%s\n        %s\n", last, map[bool]string{true: " (in the dataplane, not in the database)"}[p.rows != nil], learned(b))
			}
			fmt.Fprintf(w, "        Port %s\n            type: %s%s\n", s.GetName(), p.types.line(port), whereTo(s))
			if v := vlans(s); v != "" {
				fmt.Fprintf(w, "            vlan: %s\n", v)
			}
			printLive(w, port)
		}
	}
	if len(p.ports) == 0 && len(asked) == 0 {
		fmt.Fprintln(w, "    no ports: add one with `millrace port add BRIDGE NAME --type dpdkvhostuser`")
	}
}

// learned says what a bridge knows.
func learned(b *api.Bridge) string {
	if b.GetPipeline() == api.Pipeline_PIPELINE_FLOWS {
		return plural(len(b.GetPorts()), "port") + ", runs rules: see `millrace flow dump " + b.GetName() + "`"
	}
	return fmt.Sprintf("%s, %d of %d addresses, forgotten after %s",
		plural(len(b.GetPorts()), "port"), b.GetMacs(), b.GetMacsMax(), span(seconds(b.GetMacAgeSeconds())))
}

// printLive prints how a port does.
func printLive(w io.Writer, p *api.Port) {
	fmt.Fprintf(w, "            link: %s\n", linkLine(p.GetState()))
	if p.GetWire() != "" {
		fmt.Fprintf(w, "            wire: all its frames go to %s\n", p.GetWire())
	}
}

// headline says what runs, in one line.
func headline(i *api.GetInfoResponse) string {
	cpus := make([]string, len(i.GetWorkers()))
	for n, c := range i.GetWorkers() {
		cpus[n] = fmt.Sprint(c)
	}
	return fmt.Sprintf("%s: millrace %s, process %d, up %s, %s on CPU %s, polling %s", i.GetRunDir(), i.GetVersion(), i.GetPid(),
		span(since(i.GetStarted())), plural(len(cpus), "worker"), strings.Join(cpus, ","), word(i.GetPollMode()))
}

func since(t *timestamppb.Timestamp) time.Duration { return max(0, time.Since(t.AsTime())) }

// whereTo says what the other end of a port is.
func whereTo(s *api.PortSpec) string {
	switch {
	case s.GetPath() != "":
		return ", socket " + s.GetPath()
	case s.GetPeer() != "":
		return ", peer " + s.GetPeer()
	case s.GetHost().GetNetns() != "":
		return ", network namespace " + s.GetHost().GetNetns()
	}
	return ""
}

// linkLine says how far a port has come, and why not further.
func linkLine(s *api.PortState) string {
	parts := []string{word(s.GetLink())}
	if s.GetSince() != nil {
		parts[0] += " for " + span(since(s.GetSince()))
	}
	if s.GetQueues() > 0 {
		parts = append(parts, plural(s.GetQueues(), "queue pair"))
	}
	if s.GetPeer() != "" {
		parts = append(parts, "peer "+s.GetPeer())
	}
	line := strings.Join(parts, ", ")
	if why := reason(s); why != "" {
		line += ": " + why
	}
	return line
}

// reason says what is missing or broken: nothing, when the port forwards.
func reason(s *api.PortState) string {
	if s.GetLink() == api.Link_LINK_UP {
		return ""
	}
	return s.GetReason()
}

// vlans says how a port treats tags: nothing, for a trunk of all VLANs.
func vlans(s *api.PortSpec) string {
	mode := cmp.Or(word(s.GetVlanMode()), map[bool]string{true: "access", false: "trunk"}[s.GetTag() != 0])
	if mode == "trunk" && len(s.GetTrunks()) == 0 {
		return ""
	}
	v := mode
	if s.GetTag() != 0 {
		v += fmt.Sprintf(" %d", s.GetTag())
	}
	if len(s.GetTrunks()) > 0 {
		v += " trunks " + ranges(s.GetTrunks())
	}
	return v
}

// ranges writes sorted numbers as the CPU lists are written: 1,4-6.
func ranges(list []uint32) string {
	var parts []string
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(list[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", list[i], list[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// vlanRanges is ranges of what a row has.
func vlanRanges(vlans []int) string {
	var list []uint32
	for _, v := range slices.Sorted(slices.Values(vlans)) {
		list = append(list, uint32(v))
	}
	return ranges(list)
}
