package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/control"
	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
	"millrace/dataplane/api"
)

func (a *app) agentCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Show what pods have of the switch",
		Long: `The agent is a part of ` + "`millrace control`" + `: it makes ports for pods when the CNI
plugin asks for them, and removes those that no pod has any more, also after a
restart of the node, the runtime or the switch. What it knows is in rows of the
database, with external_ids:owner=millrace-cni.`,
		Example: `  millrace agent list
  millrace agent reconcile`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.agentListCmd(), a.agentReconcileCmd(), a.agentInstallCmd())
	return cmd
}

func (a *app) agentReconcileCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "reconcile",
		Short: "Compare ports with pods now",
		Long: `Has the agent look now for ports that no pod has. It does so by itself every half
minute, and removes what was so in two looks one after the other: the network
namespace of the pod is not there any more. After a restart of the host one is enough.`,
		Example: "  millrace agent reconcile && millrace agent reconcile",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.callAgent(cmd.Context(), &attach.Request{Method: attach.Reconcile})
			if err != nil || !a.json {
				return err
			}
			return a.printJSON(object{{"removed", append([]string{}, r.Removed...)}})
		},
	}
}

// callAgent calls the agent.
func (a *app) callAgent(ctx context.Context, r *attach.Request) (*attach.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	reply, err := attach.Call(ctx, a.runDir, r)
	switch socket := filepath.Join(a.runDir, attach.SocketName); {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s belongs to another user: call as that user or as root", fs.ErrPermission, socket)
	case errors.Is(err, attach.ErrAway):
		return nil, fmt.Errorf("%w: looked at %s; start it with `millrace run --run-dir %s`", api.ErrNotRunning, socket, a.runDir)
	}
	return reply, err
}

// agentTimeout bounds calls of the agent, which may have much to remove.
const agentTimeout = 30 * time.Second

func (a *app) agentListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the interfaces of pods",
		Long:    `Lists the interfaces that pods have by the CNI plugin, and the ports that they are.`,
		Example: "  millrace agent list\n  millrace agent list --json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.callAgent(cmd.Context(), &attach.Request{Method: attach.List})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(attachmentsJSON(r.Attachments))
			}
			return a.printAttachments(r.Attachments)
		},
	}
}

// attachmentsJSON is the list for programs.
func attachmentsJSON(list []attach.Attachment) object {
	out := []object{}
	for _, t := range list {
		out = append(out, object{
			{"port", t.Port()}, {"pod_namespace", t.Pod.Namespace}, {"pod_name", t.Pod.Name}, {"pod_uid", t.Pod.UID}, {"container_id", t.ContainerID},
			{"interface", t.IfName}, {"network", t.Network}, {"kind", t.Kind}, {"bridge", t.Bridge}, {"vlan", t.VLAN}, {"mac", t.MAC}, {"mtu", t.MTU}, {"ips", append([]string{}, t.IPs...)},
		})
	}
	return object{{"attachments", out}}
}

func (a *app) printAttachments(list []attach.Attachment) error {
	t := newTable("POD", "INTERFACE", "KIND", "BRIDGE", "PORT", "MAC", "ADDRESSES")
	for _, at := range list {
		pod := at.Pod.Namespace + "/" + at.Pod.Name
		if at.Pod.Name == "" {
			pod = at.ContainerID[:min(len(at.ContainerID), 12)]
		}
		t.add(pod, at.IfName, at.Kind, at.Bridge, at.Port(), at.MAC, strings.Join(at.IPs, " "))
	}
	t.print(a.out, "no pod has an interface of this switch")
	return nil
}

// A podAgent is the agent beside control, once that has the run directory.
type podAgent struct {
	start func()
	wait  func()
}

// startAgent makes an agent that runs from start on, until ctx ends.
func (a *app) startAgent(ctx context.Context, db []string, secure *tls.Config, log *zap.Logger) podAgent {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	run := func() {
		for ctx.Err() == nil {
			kube, err := agent.InCluster()
			if err == nil {
				err = agent.Run(ctx, agent.Config{RunDir: a.runDir, Endpoints: db, TLS: secure, Health: a.controlHealth, Log: log, Kube: kube})
			}
			if err == nil {
				return
			}
			log.Error("no ports for pods can be made: tried again", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return podAgent{
		start: func() { running.Go(run) },
		wait: func() {
			cancel()
			running.Wait()
			_ = os.Remove(filepath.Join(a.runDir, attach.SocketName)) // what a control process that was killed has left, if there was no time for another
		},
	}
}

// controlHealth is why no port could be made now.
func (a *app) controlHealth() error {
	s, err := control.ReadStatus(a.runDir)
	switch {
	case err != nil:
		return err
	case !s.Dataplane:
		return errors.New("the dataplane is not running: `millrace run` restarts it")
	case !s.Database.Connected:
		return errors.New("control has no database: " + s.Database.Error)
	}
	return nil
}
