package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
	"millrace/dataplane"
)

// portFlags are the settings of a port, and the rows that have them.
type portFlags struct {
	kind, path, peer, trunks, mode, mac string
	tag, mtu, queues, macLimit, ofport  uint32
	netns                               string
	addresses                           []string
	up, persist                         bool
	options                             []string
}

func (f *portFlags) add(cmd *cobra.Command, a *app, db *dbFlags) {
	fs := cmd.Flags()
	fs.StringVar(&f.kind, "type", "", "dpdkvhostuser, dpdkvhostuserclient, afxdp, tap, internal, patch, geneve, vxlan or egress")
	fs.StringVar(&f.path, "path", "", "socket of a vhost-user port, absolute or below the run directory")
	fs.StringVar(&f.peer, "peer", "", "name of the other end of a patch port")
	fs.Uint32Var(&f.tag, "tag", 0, "VLAN of an access or native port, 1 to 4094")
	fs.StringVar(&f.trunks, "trunks", "", "VLANs that a trunk carries, such as 10,20-29 (default: all)")
	fs.StringVar(&f.mode, "vlan-mode", "", "access, trunk, native-tagged or native-untagged (default: access with --tag, else trunk)")
	fs.Uint32Var(&f.mtu, "mtu", 0, fmt.Sprintf("largest payload of frames to the peer in bytes (default %d; afxdp, tap: what the device has)", bridge.MTUDefault))
	fs.Uint32Var(&f.queues, "queues", 0, fmt.Sprintf("queue pairs offered to the peer (default %d; afxdp: all that the device has; tap: 1)", dataplane.DefaultQueues))
	fs.Uint32Var(&f.macLimit, "mac-limit", 0, "most addresses that are learned on the port (default: as many as the bridge has room for)")
	fs.Uint32Var(&f.ofport, "ofport", 0, "OpenFlow port number (default: the lowest that is free)")
	fs.StringArrayVar(&f.options, "option", nil, "KEY=VALUE of Interface.options, such as xdp-vlans=10,20-29 or remote_ip=10.0.0.2; may be repeated")
	fs.StringVar(&f.mac, "mac", "", "address of the device of a tap port, or of an egress port; for others only what mac_in_use tells: a guest's own is the guest's affair")
	fs.StringVar(&f.netns, "netns", "", "network namespace of the device of a tap port: a name that ip netns knows, or an absolute path (default: the switch's)")
	fs.StringSliceVar(&f.addresses, "ip", nil, "address of the host on the device of a tap port, or of an egress port, such as 10.0.0.1/24; again for more")
	fs.BoolVar(&f.up, "up", false, "take the device of a tap port up (default: with --netns or --ip)")
	fs.BoolVar(&f.persist, "persist", false, "the device of a tap port stays when the switch goes, with addresses and routes")
	_ = cmd.MarkFlagFilename("path") // fails for flags that there are not
	complete(cmd, "type", append(a.types[:len(a.types):len(a.types)], bridge.TypeEgress)...)
	complete(cmd, "vlan-mode", vlanModes()...)
	completeWith(cmd, "peer", a.rowPorts(db))
}

func vlanModes() []string {
	return []string{"access", "trunk", "native-tagged", "native-untagged"}
}

// ofportMax is the largest port number that a row may ask for, by its schema.
const ofportMax = 65279

// The keys of rows that flags stand for.
const (
	keyPath   = "vhost-server-path"
	keyPeer   = "peer"
	keyQueues = "n_rxq"
)

// portOption is a flag that is one key of a map of a row.
type portOption struct {
	flag string
	m    map[string]string
	key  string
	v    string
}

// put gives rows what the flags say that are given.
func (f *portFlags) put(cmd *cobra.Command, p *model.Port, i *model.Interface) error {
	given := func(name string) bool { return cmd.Flag(name).Changed }
	p.OtherConfig, i.Options = writable(p.OtherConfig), writable(i.Options)
	if given("type") {
		i.Type = f.kind
	}
	for _, o := range []portOption{
		{"path", i.Options, keyPath, f.path}, {"peer", i.Options, keyPeer, f.peer},
		{"queues", i.Options, keyQueues, number(f.queues)}, {"mac-limit", p.OtherConfig, bridge.KeyMACLimit, number(f.macLimit)},
		{"netns", i.Options, bridge.KeyNetns, f.netns}, {"ip", i.Options, bridge.KeyIP, strings.Join(f.addresses, ",")},
		{"up", i.Options, bridge.KeyUp, strconv.FormatBool(f.up)}, {"persist", i.Options, bridge.KeyPersist, strconv.FormatBool(f.persist)},
	} {
		if given(o.flag) {
			o.m[o.key] = o.v
		}
	}
	for _, o := range f.options {
		key, value, ok := strings.Cut(o, "=")
		if !ok || key == "" {
			return usage(cmd, "--option: %q is not KEY=VALUE", o)
		}
		i.Options[key] = value
	}
	for _, o := range []struct {
		flag string
		n    uint32
		to   **int
	}{{"tag", f.tag, &p.Tag}, {"mtu", f.mtu, &i.MTURequest}, {"ofport", f.ofport, &i.OfportRequest}} {
		if given(o.flag) {
			n := int(o.n)
			*o.to = &n
		}
	}
	if given("ofport") && (f.ofport < 1 || f.ofport > ofportMax) {
		return usage(cmd, "--ofport: %d is not in 1..%d", f.ofport, ofportMax)
	}
	if given("mac") {
		i.MAC = &f.mac
	}
	return f.putVLANs(cmd, p)
}

// putVLANs is put for the settings that are no plain values.
func (f *portFlags) putVLANs(cmd *cobra.Command, p *model.Port) error {
	if cmd.Flag("tag").Changed && f.tag == 0 {
		return usage(cmd, "--tag: 0 is no VLAN: leave the flag out")
	}
	if cmd.Flag("trunks").Changed {
		vlans, err := parseVLANs(f.trunks)
		if err != nil {
			return usage(cmd, "--trunks: %w", err)
		}
		p.Trunks = vlanSet(vlans)
	}
	if cmd.Flag("vlan-mode").Changed {
		if !slices.Contains(vlanModes(), f.mode) {
			return usage(cmd, "--vlan-mode: %q is none of %s", f.mode, strings.Join(vlanModes(), ", "))
		}
		p.VLANMode = &f.mode
	}
	return nil
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// writable is a copy of a map that can be written to.
func writable(m map[string]string) map[string]string {
	c := maps.Clone(m)
	if c == nil {
		c = map[string]string{}
	}
	return c
}

// parseVLANs reads a list such as 10,20-29.
func parseVLANs(s string) ([]uint32, error) {
	var vlans []uint32
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		lo, errLo := strconv.ParseUint(first, 10, 12)
		hi, errHi := strconv.ParseUint(last, 10, 12)
		if errLo != nil || errHi != nil || lo > hi {
			return nil, fmt.Errorf("%q is neither a VLAN nor a range like 20-29", part)
		}
		for v := lo; v <= hi; v++ {
			vlans = append(vlans, uint32(v))
		}
	}
	return vlans, nil
}

// vlanSet is a list of VLANs as a row has it.
func vlanSet(list []uint32) []int {
	var set []int
	for _, v := range list {
		set = append(set, int(v))
	}
	slices.Sort(set)
	return slices.Compact(set)
}

// portColumns are the columns of a Port row that flags set.
func portColumns(p *model.Port) columns {
	return columns{"tag": p.Tag, "trunks": p.Trunks, "vlan_mode": p.VLANMode, "other_config": p.OtherConfig}
}

// interfaceColumns are the columns of an Interface row that flags set.
func interfaceColumns(i *model.Interface) columns {
	return columns{"type": i.Type, "options": i.Options, "mac": i.MAC, "mtu_request": i.MTURequest, "ofport_request": i.OfportRequest}
}

// judge refuses values that no port can have, before they are in any row:
// control would only say so in the row. Only what flags have said is refused.
func (a *app) judge(cmd *cobra.Command, in string, p *model.Port, i *model.Interface) error {
	dir, err := filepath.Abs(a.runDir)
	if err != nil {
		return err
	}
	port, iface := *p, *i
	port.UUID, iface.UUID, port.Interfaces = "p", "i", []string{"i"}
	port.Name = iface.Name
	s := bridge.From(bridge.Rows{
		Root:       &model.OpenvSwitch{Bridges: []string{"b"}},
		Bridges:    map[string]*model.Bridge{"b": {UUID: "b", Name: in, Ports: []string{"p"}}},
		Ports:      map[string]*model.Port{"p": &port},
		Interfaces: map[string]*model.Interface{"i": &iface},
	}, bridge.Policy{RunDir: dir, Agent: checkAgentOptions})
	for _, e := range s.Errors {
		flag := flagOf(e, &iface)
		if !errors.Is(e, bridge.ErrValue) && !errors.Is(e, bridge.ErrUnknown) {
			continue // may be so here; control knows
		}
		if f := cmd.Flag(strings.TrimPrefix(flag, "--")); f != nil && !f.Changed && cmd.Name() == "set" {
			continue
		}
		return usage(cmd, "%s: %w", flag, e.Err)
	}
	return nil
}

// flagOf is the flag or argument that a column stands for.
func flagOf(e *bridge.RowError, i *model.Interface) string {
	switch e.Column {
	case "name":
		if e.Table == "Bridge" {
			return "BRIDGE"
		}
		return "NAME"
	case "bridge":
		return "BRIDGE"
	case "options":
		for _, key := range []string{bridge.KeyNetns, bridge.KeyIP, bridge.KeyUp, bridge.KeyPersist} {
			if text := e.Err.Error(); strings.HasPrefix(text, key) || strings.Contains(text, "option "+strconv.Quote(key)) {
				return "--" + key
			}
		}
		switch {
		case strings.HasPrefix(e.Err.Error(), keyQueues):
			return "--queues"
		case i.Type == bridge.TypeAFXDP || i.Type == bridge.TypeEgress || bridge.IsTunnel(i.Type):
			return "--option"
		case i.Type == bridge.TypePatch:
			return "--peer"
		}
		return "--path"
	case "other_config":
		return "--mac-limit"
	}
	return "--" + strings.NewReplacer("_request", "", "_", "-").Replace(e.Column)
}
