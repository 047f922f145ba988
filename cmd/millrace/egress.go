package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/control"
	"millrace/control/egress/admin"
	"millrace/control/egress/agent"
	"millrace/control/egress/l3"
)

func (a *app) egressCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "egress",
		Short: "Let a control plane reach what is behind this node",
		Long: `A node behind NAT has no address that its control plane could reach. An egress
agent dials out to the control plane's konnectivity proxy-servers, and opens the
connections that come back through them: to kubelet, pods and services, as far as
its policy allows. Each port of type egress has an agent, and there may be one by
itself; --port of the other commands says which is asked. Operators who need whole
subnets have a tunnel instead: l3.`,
		Example: `  millrace egress agent --server konnectivity.example:8132 --ca ca.crt --token token --allow node=192.0.2.10@10250
  millrace egress status`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.egressAgentCmd(), a.egressPortCmd(), a.choosePort(a.egressStatusCmd()), a.choosePort(a.egressRequestsCmd()), a.choosePort(a.egressTopCmd()), a.choosePort(a.egressExplainCmd()),
		a.egressL3Cmd(), a.egressGenkeyCmd(), a.egressPubkeyCmd())
	return cmd
}

// choosePort adds the flag that says which agent is asked.
func (a *app) choosePort(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.egressPort, "port", "", "ask the agent of this egress port (default: the only agent there is)")
	completeWith(cmd, "port", a.egressPortNames)
	return cmd
}

// egressPortNames completes the name of an egress port.
func (a *app) egressPortNames(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	names, _ := control.EgressPorts(a.runDir) // nothing is offered then
	return names, cobra.ShellCompDirectiveNoFileComp
}

// askAgent has an agent of the run directory answer a path.
func (a *app) askAgent(ctx context.Context, path string, query url.Values, v any) error {
	names, err := a.agentPorts()
	if err != nil {
		return err
	}
	port, err := a.askedPort(names)
	if err != nil {
		return err
	}
	if port == "" {
		return admin.Ask(ctx, filepath.Join(a.runDir, admin.SocketName), path, query, v)
	}
	err = admin.Ask(ctx, control.EgressSocket(a.runDir, port), path, query, v)
	switch {
	case !errors.Is(err, admin.ErrNoAgent):
		return err
	case slices.Contains(names, port):
		return &absentError{fmt.Sprintf("the process of egress port %s does not run: `millrace run` starts it, and its log says why it ends", port)}
	}
	return &absentError{fmt.Sprintf("there is no egress port %s with an agent in %s; there are: %s", port, a.runDir, cmp.Or(strings.Join(names, ", "), "none"))}
}

// agentPorts are the egress ports that have an agent, or a tunnel.
func (a *app) agentPorts() ([]string, error) {
	names, err := control.EgressPorts(a.runDir)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("look for egress ports: %w: call as the user whose run directory it is or as root", err)
	}
	if err != nil {
		return nil, fmt.Errorf("look for egress ports: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		e, err := control.ReadEgress(a.runDir, name)
		return err == nil && !e.Agent()
	}), nil
}

// askedPort is the port whose agent is asked: that which the flag names, or the only
// one of names. It is empty if the agent by itself is asked.
func (a *app) askedPort(names []string) (string, error) {
	if a.egressPort != "" || len(names) == 0 {
		return a.egressPort, nil
	}
	alone := filepath.Join(a.runDir, admin.SocketName)
	c, err := net.Dial("unix", alone)
	if err == nil {
		_ = c.Close() // it was only to see whether somebody listens
	}
	switch {
	case len(names) == 1 && err != nil:
		return names[0], nil
	case len(names) == 1:
		return "", fmt.Errorf("there are an agent by itself and that of port %s: --port %s asks the latter, another --run-dir keeps them apart", names[0], names[0])
	}
	return "", fmt.Errorf("several egress ports: choose by --port: %s", strings.Join(names, ", "))
}

func (a *app) egressStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show an agent's connections to servers",
		Long: `Shows whether a server has answered in the last 10 seconds, and each connection:
the server, how long ago its machine gave a sign of life, the shortest round trip,
the streams, idle ones among them, and segments that were sent again. Of a port
that is a tunnel it shows the peers, as ` + "`egress l3 status`" + ` does. Exit code 1 says
that the agent runs and no server answers.`,
		Example: `  millrace egress status
  millrace egress status --port egress0
  millrace egress status --json | jq .servers_up`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var raw json.RawMessage
			if err := a.askAgent(cmd.Context(), "/status", nil, &raw); err != nil {
				return err
			}
			var tunnel l3.Status
			if err := json.Unmarshal(raw, &tunnel); err == nil && len(tunnel.Peers) > 0 {
				return a.showTunnelStatus(tunnel)
			}
			var s agent.Status
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("read the egress agent's answer: %w", err)
			}
			if err := a.showEgressStatus(s); err != nil {
				return err
			}
			if !s.Ready {
				return fmt.Errorf("no server answers: %s", s.Trouble)
			}
			return nil
		},
	}
}

func (a *app) showEgressStatus(s agent.Status) error {
	if a.json {
		return a.printJSON(s)
	}
	fmt.Fprintf(a.out, "%s, %d of %d servers connected, %d requests\n", yesNo(s.Ready, "ready", "not ready"), s.ServersUp, s.ServersKnown, s.Requests)
	t := newTable("ADDRESS", "SERVER", ">UP", ">LAST SEEN", ">RTT", ">STREAMS", ">IDLE", ">RETRANSMITS")
	for _, l := range s.Links {
		t.add(l.Address, l.Server, time.Since(l.Since).Round(time.Second).String(), l.LastSeen.Round(time.Millisecond).String(), span(l.RTT),
			fmt.Sprint(l.Streams), fmt.Sprint(l.Idle), count(l.Resent))
	}
	t.print(a.out, "no connection")
	var told []string
	for _, l := range s.Links {
		if l.NoDrain && !slices.Contains(told, l.Server) {
			told = append(told, l.Server)
			fmt.Fprintf(a.out, "server %s takes no notice of DRAIN: requests share streams, and one that stalls may be closed (proxy-server v0.35 or later does better)\n", l.Server)
		}
	}
	if s.Ready && s.Trouble != "" { // with another server; if none answers, the error says it
		fmt.Fprintf(a.out, "trouble: %s\n", s.Trouble)
	}
	return nil
}

func yesNo(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func (a *app) egressRequestsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "requests",
		Short: "Show open requests, and the last that ended",
		Long: `Shows each request that is open, the oldest first, and the last 256 that ended,
the latest first: the target as it was asked for and as it was reached, by which
class of the policy, how long dialling and the whole took, bytes to the target
and back, and what came of it. --json has more: who closed, how long a side took
nothing of what waited for it, and the ids that the server's log has.`,
		Example: `  millrace egress requests
  millrace egress requests --json | jq '.ended[] | select(.state != "ok")'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r admin.Requests
			if err := a.askAgent(cmd.Context(), "/requests", nil, &r); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			t := newTable("STATE", "TARGET", "REACHED", "CLASS", ">DIAL", ">TIME", ">TO TARGET", ">TO CLIENT", "ERROR")
			for _, q := range append(r.Open, r.Ended...) {
				t.add(q.State, q.Protocol+" "+q.Target, q.Address, q.Class, q.Dialled.Round(10*time.Microsecond).String(),
					q.Duration.Round(time.Millisecond).String(), count(uint64(q.ToTarget)), count(uint64(q.ToClient)), q.Error)
			}
			t.print(a.out, "no request yet")
			return nil
		},
	}
}

func (a *app) egressExplainCmd() *cobra.Command {
	var protocol string
	cmd := &cobra.Command{
		Use:   "explain HOST:PORT",
		Short: "Say what the policy makes of a target",
		Long: `Has the running agent judge a target as if a request named it. A name is looked
up as it would be then; nothing is dialled. Exit code 1 says that it is denied.`,
		Example: `  millrace egress explain 10.96.0.1:443
  millrace egress explain kubernetes.default.svc.cluster.local:443`,
		Args:              exactly("HOST:PORT"),
		ValidArgsFunction: byPosition(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var e agent.Explanation
			if err := a.askAgent(cmd.Context(), "/explain", url.Values{"protocol": {protocol}, "address": args}, &e); err != nil {
				return err
			}
			return a.showExplanation(e)
		},
	}
	cmd.Flags().StringVar(&protocol, "protocol", "tcp", "tcp, tcp4, tcp6, or udp where the agent has it turned on")
	completeWith(cmd, "protocol", cobra.FixedCompletions([]string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) showExplanation(e agent.Explanation) error {
	allowed := false
	t := newTable("ADDRESS", "CLASS", "BY", "WHY")
	for _, v := range e.Addresses {
		allowed = allowed || v.Why == ""
		t.add(v.Address, v.Class, v.Way, v.Why)
	}
	switch {
	case a.json:
		if err := a.printJSON(e); err != nil {
			return err
		}
	case e.Denied == "" && e.Error == "":
		t.print(a.out, "")
	}
	switch {
	case e.Denied != "":
		return fmt.Errorf("%s", e.Denied)
	case e.Error != "":
		return fmt.Errorf("%s", e.Error)
	case !allowed:
		return fmt.Errorf("%s is denied", e.Target)
	}
	return nil
}
