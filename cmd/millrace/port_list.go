package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) portListCmd() *cobra.Command {
	var bridge string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List ports in a table",
		Long: `Lists ports, one in a line, in the order in which they were added. REASON says
what is missing where a port does not forward. TYPE, and type in --json, is what
the port's row says; spec.type in --json is what the port is to the dataplane.`,
		Example: `  millrace port list
  millrace port list --bridge br0 --json | jq -r '.[].spec.name'`,
		Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *api.Client, _ []string) error {
			r, err := c.ListPorts(ctx, &api.ListPortsRequest{Bridge: bridge})
			if err != nil {
				return err
			}
			return a.listPorts(r.GetPorts())
		}),
	}
	cmd.Flags().StringVar(&bridge, "bridge", "", "ports of this bridge only")
	completeWith(cmd, "bridge", a.bridgeNames())
	return cmd
}

func (a *app) listPorts(ports []*api.Port) error {
	types := a.rowTypes()
	if a.json {
		return a.printJSON(types.list(ports))
	}
	t := newTable("NAME", ">NO", "BRIDGE", "TYPE", "LINK", ">QUEUES", "VLAN", "REASON")
	for _, p := range ports {
		s := p.GetSpec()
		t.add(s.GetName(), fmt.Sprint(p.GetNumber()), s.GetBridge(), types.of(p), word(p.GetState().GetLink()),
			fmt.Sprint(p.GetState().GetQueues()), vlans(s), reason(p.GetState()))
	}
	t.print(a.out, "no ports")
	return nil
}

func (a *app) portShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show all about one port",
		Long: `Shows a port's settings and its state: how far it has come and why not further,
its peer, the features that were negotiated, and the CPUs that poll its queues.
type in --json is what the port's row says, spec.type what it is to the dataplane.`,
		Example: `  millrace port show vm1
  millrace port show vm1 --json | jq -r .state.link`,
		Args:              exactly("NAME"),
		ValidArgsFunction: byPosition(a.portNames()),
		RunE: a.call(func(ctx context.Context, c *api.Client, args []string) error {
			r, err := c.ListPorts(ctx, &api.ListPortsRequest{Name: args[0]})
			if err != nil {
				return err
			}
			p, types := r.GetPorts()[0], a.rowTypes()
			if a.json {
				return a.printJSON(types.json(p))
			}
			a.describePort(p, types)
			return nil
		}),
	}
}

// describePort prints all that there is about a port, and leaves out what it
// does not have.
func (a *app) describePort(p *api.Port, types rowTypes) {
	s, st := p.GetSpec(), p.GetState()
	for _, l := range [][2]string{
		{"port", fmt.Sprintf("%s, number %d, of bridge %s", s.GetName(), p.GetNumber(), s.GetBridge())},
		{"type", types.line(p) + whereTo(s)},
		{"options", optionsLine(s.GetOptions())},
		{"link", linkLine(st)},
		{"device", deviceLine(st.GetHost())},
		{"vlan", vlans(s)},
		{"wire", p.GetWire()},
		{"mtu", unlessZero(s.GetMtu(), " bytes")},
		{"queues offered", unlessZero(s.GetQueues(), "")},
		{"mac limit", unlessZero(s.GetMacLimit(), " addresses")},
		{"may send", limitLine(s.GetIngress())},
		{"is sent", limitLine(s.GetEgress())},
		{"sends as", sourceLine(s.GetSources())},
		{"polled by CPU", strings.Trim(fmt.Sprint(p.GetWorkers()), "[]")},
		{"how", st.GetHow()},
		{"features", strings.Join(st.GetFeatures(), " ")},
		{"memory regions", unlessZero(st.GetRegions(), "")},
		{"connects", fmt.Sprint(st.GetConnects())},
		{"breaks", fmt.Sprint(st.GetBreaks())},
		{"added", p.GetCreated().AsTime().Local().Format(time.DateTime)},
	} {
		if l[1] != "" {
			fmt.Fprintf(a.out, "%-15s %s\n", l[0]+":", l[1])
		}
	}
}

// optionsLine lists what a port has been told besides what has a line of its own.
func optionsLine(options map[string]string) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(options)) {
		words = append(words, k+"="+options[k])
	}
	return strings.Join(words, " ")
}

// deviceLine says how the device of a tap or internal port is.
func deviceLine(h *api.HostState) string {
	if h == nil {
		return ""
	}
	up := "down"
	if h.GetUp() {
		up = "up"
	}
	return fmt.Sprintf("%s, %s, index %d, address %s, MTU %d, network namespace net:[%d]", h.GetName(), up, h.GetIfindex(), h.GetMac(), h.GetMtu(), h.GetNetns())
}

// limitLine says how much may go through a port.
func limitLine(l *api.Limit) string {
	var parts []string
	if l.GetBytes() != 0 {
		parts = append(parts, fmt.Sprintf("%s, %s bytes at once", bitRate(l.GetBytes()), count(l.GetBurst())))
	}
	if l.GetFrames() != 0 {
		parts = append(parts, fmt.Sprintf("%s frames/s, %s at once", count(l.GetFrames()), count(l.GetFrameBurst())))
	}
	return strings.Join(parts, "; ")
}

// bitRate is so many bytes a second in bits.
func bitRate(bytes uint64) string {
	v := 8 * float64(bytes)
	for _, unit := range []string{"bit/s", "kbit/s", "Mbit/s"} {
		if v < 1000 {
			return fmt.Sprintf("%.1f %s", v, unit)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.1f Gbit/s", v)
}

// sourceLine says from whom frames may come in.
func sourceLine(list []*api.Source) string {
	var parts []string
	for _, s := range list {
		words := []string{s.GetMac()}
		for _, a := range s.GetAddresses() {
			words = append(words, strings.TrimSuffix(strings.TrimSuffix(a, "/128"), "/32"))
		}
		parts = append(parts, strings.Join(words, " "))
	}
	return strings.Join(parts, ", ")
}

func unlessZero(n uint32, unit string) string {
	if n == 0 {
		return ""
	}
	return count(n) + unit
}
