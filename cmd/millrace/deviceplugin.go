package main

import (
	"context"
	"errors"
	"sync"

	"github.com/spf13/cobra"

	"millrace/control/cni/attach"
	"millrace/control/cni/slots"
)

// devicePluginFlags are the flags of device-plugin.
type devicePluginFlags struct {
	bridges             []string
	slots               int
	mode                string
	kubeletDir, infoDir string
}

func (a *app) devicePluginCmd() *cobra.Command {
	var f devicePluginFlags
	cmd := &cobra.Command{
		Use:   "device-plugin --bridge BRIDGE",
		Short: "Offer vhost-user interfaces to kubelet as a resource",
		Long: `Tells kubelet that this node has interfaces of a bridge, as the resource
` + slots.Domain + `/BRIDGE, so that pods which ask for some run where the
switch does. A container that gets one finds a directory at /run/millrace/ID, with the
environment variable MILLRACE_SLOTS=ID,...; its socket comes into it when the CNI
plugin has made the interface.

It runs until it gets SIGTERM or SIGINT, and outlives restarts of kubelet. While the
switch is not running, its resources are not healthy, and no new pods come.`,
		Example: `  millrace device-plugin --bridge br0
  millrace device-plugin --bridge br0 --bridge br1 --slots 32`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.devicePlugin(cmd, &f) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.bridges, "bridge", nil, "bridge whose interfaces are offered; again for more")
	fs.IntVar(&f.slots, "slots", slots.DefaultSlots, "how many interfaces of each bridge")
	fs.StringVar(&f.mode, "mode", "client", "role of the switch where the network says nothing: client (it connects) or server (it makes the socket)")
	fs.StringVar(&f.kubeletDir, "kubelet-dir", "/var/lib/kubelet/device-plugins", "kubelet's directory of device plugins")
	fs.StringVar(&f.infoDir, "device-info-dir", slots.DefaultInfoDir, "where Multus looks for what is told of devices")
	complete(cmd, "mode", "client", "server")
	return cmd
}

// devicePlugin runs a plugin for each bridge until it is told to end.
func (a *app) devicePlugin(cmd *cobra.Command, f *devicePluginFlags) error {
	roles := map[string]string{"client": "server", "server": "client"} // of the application
	if len(f.bridges) == 0 {
		return usage(cmd, "--bridge: say which bridge's interfaces are offered")
	}
	if roles[f.mode] == "" {
		return usage(cmd, "--mode: %q is neither client nor server", f.mode)
	}
	if f.slots < 1 || f.slots > slots.SlotsMax {
		return usage(cmd, "--slots: %d is not in 1..%d", f.slots, slots.SlotsMax)
	}
	log, err := a.serviceLogger(cmd, "device-plugin")
	if err != nil {
		return err
	}
	var plugins []*slots.Plugin
	for _, b := range f.bridges {
		p, err := slots.New(slots.Config{RunDir: a.runDir, Bridge: b, Slots: f.slots, Role: roles[f.mode], KubeletDir: f.kubeletDir, InfoDir: f.infoDir, Health: a.agentHealth, Log: log})
		if err != nil {
			return usage(cmd, "%w", err)
		}
		plugins = append(plugins, p)
	}
	errs := make([]error, len(plugins))
	var running sync.WaitGroup
	for i, p := range plugins {
		running.Go(func() { errs[i] = p.Run(cmd.Context()) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// agentHealth is why no interface could be had now.
func (a *app) agentHealth(ctx context.Context) error {
	_, err := attach.Call(ctx, a.runDir, &attach.Request{Method: attach.Status})
	return err
}
