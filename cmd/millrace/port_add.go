package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
	"millrace/dataplane/api"
)

// portAddFlags are the flags of port add.
type portAddFlags struct {
	db       dbFlags
	wait     waitFlags
	port     portFlags
	mayExist bool
	up       time.Duration // how long to wait for the peer
}

// portAddHelp is the help of port add.
const portAddHelp = `Adds a port to a bridge, which is made if there is none of that name: rows of the
database, as ovs-vsctl writes them. The types are those of Open vSwitch:

  dpdkvhostuser        the switch listens on a socket: RUN-DIR/NAME, or --path
  dpdkvhostuserclient  the switch connects to the socket --path, and again when
                       the other side goes away: right for most guests
  afxdp                the network device NAME: a NIC, or the host's end of a veth
  patch                the other end is the patch port --peer of another bridge
  tap, internal        a network device NAME of the kernel, for a pod or the host:
                       in the network namespace --netns, with the addresses --ip
  geneve, vxlan        a tunnel to another host: --option remote_ip=ADDRESS, and as needed
                       key, local_ip, csum, tos, ttl, df_default and dst_port
  egress               a konnectivity agent with a TCP/IP stack, in a process of its own:
                       the control plane reaches pods by it. --ip is its address, --option
                       has gateway, stack=kernel for the kernel's TCP/IP, and all flags of
                       ` + "`millrace egress agent`" + ` by their names, such as server, ca, token,
                       allow; with mode=l3 those of ` + "`millrace egress l3`" + `

The command returns when the port is in force. What is wrong with it then is an
error with exit code 1; its row stays, and control tries again. Its peer may
come later, unless you --wait for that.

With --tag alone the port is an access port: frames enter and leave untagged and
belong to that VLAN. With none of --tag, --trunks and --vlan-mode it is a trunk
of all VLANs.`

func (a *app) portAddCmd() *cobra.Command {
	var f portAddFlags
	cmd := &cobra.Command{
		Use:   "add BRIDGE NAME --type TYPE",
		Short: "Add a port to a bridge",
		Long:  portAddHelp,
		Example: `  millrace port add br0 pod1 --type dpdkvhostuser --tag 10
  millrace port add br0 vm1 --type dpdkvhostuserclient --path /run/vms/vm1.sock --wait=30s
  millrace port add br0 up --type dpdkvhostuser --vlan-mode native-untagged --tag 1 --trunks 10,20-29
  millrace port add br0 eth1 --type afxdp --option xdp-vlans=10,20-29
  millrace port add br0 to-br1 --type patch --peer to-br0
  millrace port add br0 eth1 --type tap --netns pod1 --ip 10.0.0.5/24
  millrace port add br0 node2 --type geneve --option remote_ip=192.0.2.2 --option key=flow
  millrace port add br0 egress0 --type egress --ip 10.16.0.2/16 --option gateway=10.16.0.1 --option dns=10.96.0.10:53 \
      --option server=konnectivity.example:8132 --option ca=/etc/konnectivity/ca.crt --option token=/var/run/secrets/tokens/konnectivity \
      --option 'allow=pods=10.16.0.0/16 services=10.96.0.0/12@443'
  millrace port add br0 vm1 --may-exist --type dpdkvhostuser --db unix:/run/openvswitch/db.sock`,
		Args: exactly("BRIDGE", "NAME"),
	}
	f.db.add(cmd)
	f.wait.add(cmd)
	f.port.add(cmd, a, &f.db)
	cmd.ValidArgsFunction = byPosition(a.rowBridges(&f.db))
	fs := cmd.Flags()
	fs.BoolVar(&f.mayExist, "may-exist", false, "if the bridge has the port already, give it the settings that flags name")
	fs.DurationVar(&f.up, "wait", 0, "wait until the port forwards, so long at most (10s where no time is given)")
	fs.Lookup("wait").NoOptDefVal = "10s"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, i, err := f.rows(cmd, a, args)
		if err != nil {
			return err
		}
		waits := func() time.Duration { return f.wait.timeout + f.up }
		return a.onDB(&f.db, waits, func(ctx context.Context, d *database, args []string) error {
			return a.portAdd(ctx, d, cmd, &f, args, p, i)
		})(cmd, args)
	}
	return cmd
}

// rows are the rows that the command line describes.
func (f *portAddFlags) rows(cmd *cobra.Command, a *app, args []string) (*model.Port, *model.Interface, error) {
	if f.port.kind == "" {
		return nil, nil, usage(cmd, "--type: say which type of port: dpdkvhostuser, dpdkvhostuserclient, afxdp, tap, internal, patch, geneve, vxlan or egress")
	}
	if f.wait.noWait && f.up > 0 {
		return nil, nil, usage(cmd, "--no-wait: contradicts --wait")
	}
	p, i := &model.Port{Name: args[1]}, &model.Interface{Name: args[1]}
	if err := f.port.put(cmd, p, i); err != nil {
		return nil, nil, err
	}
	return p, i, a.judge(cmd, args[0], p, i)
}

func (a *app) portAdd(ctx context.Context, d *database, cmd *cobra.Command, f *portAddFlags, args []string, p *model.Port, i *model.Interface) error {
	next, err := d.edit(ctx, func(v *vswitch, e *edit) error {
		if old, in := v.port(args[1]); old != nil {
			return f.again(cmd, v, e, old, in, args)
		}
		return insertPort(v, e, args[0], p, i)
	})
	if err != nil {
		return err
	}
	r, err := d.settled(ctx, &f.wait, next, args[1])
	if err != nil {
		return err
	}
	return a.portAdded(ctx, f, r, args)
}

// again brings a port that is there to what the flags say, if it may be there.
func (f *portAddFlags) again(cmd *cobra.Command, v *vswitch, e *edit, old *model.Port, in *model.Bridge, args []string) error {
	interfaces := v.interfacesOf(old)
	switch {
	case own(old, in):
		return fmt.Errorf("port %s: it is the name of a bridge: choose another", old.Name)
	case in.Name != args[0]:
		return fmt.Errorf("port %s exists on bridge %s: delete it there with `millrace port del %s`, or choose another name", old.Name, in.Name, old.Name)
	case !f.mayExist:
		return fmt.Errorf("port %s exists on bridge %s: with --may-exist that is no error; `millrace port set` changes it", old.Name, in.Name)
	case len(interfaces) != 1:
		return fmt.Errorf("port %s has %d interfaces: change them with ovs-vsctl", old.Name, len(interfaces))
	}
	return f.port.edit(cmd, e, old, interfaces[0])
}

// edit gives rows what the flags say.
func (f *portFlags) edit(cmd *cobra.Command, e *edit, p *model.Port, i *model.Interface) error {
	port, iface := *p, *i
	if err := f.put(cmd, &port, &iface); err != nil {
		return err
	}
	e.expect(model.PortTable, p.UUID, columns{"name": p.Name})
	e.change(model.PortTable, p.UUID, portColumns(p), portColumns(&port))
	e.change(model.InterfaceTable, i.UUID, interfaceColumns(i), interfaceColumns(&iface))
	return nil
}

// insertPort makes a port, and its bridge if there is none.
func insertPort(v *vswitch, e *edit, in string, p *model.Port, i *model.Interface) error {
	e.absent(model.PortTable, p.Name)
	ifc := interfaceColumns(i)
	ifc["name"] = i.Name
	pc := portColumns(p)
	pc["name"], pc["interfaces"] = p.Name, e.insert(model.InterfaceTable, ifc)
	port := e.insert(model.PortTable, pc)
	b := v.bridge(in)
	if b == nil {
		return insertBridge(v, e, &model.Bridge{Name: in}, port)
	}
	e.expect(model.BridgeTable, b.UUID, columns{"name": b.Name})
	e.mutate(model.BridgeTable, uuid(b.UUID), []any{"ports", "insert", port})
	return nil
}

// An outcome is what came of a port's rows.
type outcome struct {
	ofport *int // nil: not known yet
}

// settled waits until a change is in force, and returns what came of a port.
// What is wrong with it is an error.
func (d *database) settled(ctx context.Context, f *waitFlags, next int, name string) (outcome, error) {
	if err := d.inForce(ctx, f, next); err != nil || f.noWait {
		return outcome{}, err
	}
	v, err := d.read(ctx)
	if err != nil {
		return outcome{}, err
	}
	p, _ := v.port(name)
	if p == nil {
		return outcome{}, fmt.Errorf("port %s: somebody else has deleted it", name)
	}
	var r outcome
	for _, i := range v.interfacesOf(p) {
		r.ofport = i.Ofport
		if i.Error != nil {
			return r, fmt.Errorf("port %s: %s (its row stays and control tries again; `millrace port del %s` deletes it)", name, *i.Error, name)
		}
		if i.Ofport != nil && *i.Ofport == bridge.OfportBad {
			return r, fmt.Errorf("port %s could not be made (its row stays and control tries again; `millrace port del %s` deletes it)", name, name)
		}
	}
	return r, nil
}

// portAdded waits for the peer if asked, and tells of the port.
func (a *app) portAdded(ctx context.Context, f *portAddFlags, r outcome, args []string) error {
	if f.up == 0 && !a.json {
		return nil
	}
	port := &api.Port{Spec: &api.PortSpec{Bridge: args[0], Name: args[1], Type: f.port.kind}}
	c, err := api.Dial(ctx, a.runDir, api.Patience(restartPatience))
	if err == nil {
		defer c.Close()
		if f.up > 0 {
			port, err = waitUp(ctx, c, args[1], f.up)
		} else if list, missing := c.ListPorts(ctx, &api.ListPortsRequest{Name: args[1]}); missing == nil {
			port = list.GetPorts()[0]
		}
	}
	if err != nil && f.up > 0 {
		return err
	}
	if a.json {
		return a.printJSON(append(a.rowTypes().json(port), field{"ofport", r.ofport}))
	}
	return nil
}

// waitUp returns when the port forwards. The limit is for that: how the port is has been asked before.
func waitUp(ctx context.Context, c *api.Client, name string, limit time.Duration) (*api.Port, error) {
	last := "not there"
	if list, err := c.ListPorts(ctx, &api.ListPortsRequest{Name: name}); err == nil && len(list.GetPorts()) == 1 {
		last = linkLine(list.GetPorts()[0].GetState())
	}
	// A deadline would be the dataplane's, too, which then ends the call first.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) }).Stop()
	w, err := c.WatchPorts(ctx, &api.WatchPortsRequest{})
	for {
		var e *api.WatchPortsResponse
		if err == nil {
			e, err = w.Recv()
		}
		switch {
		case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
			return nil, fmt.Errorf("port %s does not forward after %s: it is %s", name, span(limit), last)
		case err != nil:
			return nil, err
		case e.GetPort().GetSpec().GetName() != name:
		case e.GetKind() == api.EventKind_EVENT_KIND_REMOVED:
			return nil, fmt.Errorf("port %s was removed while we waited", name)
		case e.GetPort().GetState().GetLink() == api.Link_LINK_UP:
			return e.GetPort(), nil
		default:
			last = linkLine(e.GetPort().GetState())
		}
	}
}
