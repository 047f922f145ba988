package control

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
	"millrace/dataplane/api"
)

// interfaceRow is what an Interface row shall say but for statistics.
func interfaceRow(v bridge.InterfaceView, d *device, failed *failure) *model.Interface {
	row := &model.Interface{Ofport: &v.Ofport, Ifindex: new(int)}
	switch {
	case v.Local && (!v.Wanted || d == nil):
		row.Error = text(v.Error)
		row.Status = localStatus(v, failed)
		row.AdminState, row.LinkState = ptr(model.InterfaceAdminStateDown), ptr(model.InterfaceLinkStateDown)
		row.MACInUse, row.MTU = &v.MAC, &v.MTU
	case v.Wanted && d != nil:
		row.Error = text(v.Error)
		deviceRow(row, v, d)
	case failed != nil:
		row.Ofport, row.Error = ptr(bridge.OfportBad), text(join(v.Error, failed.text))
	default:
		row.Error = text(v.Error)
	}
	return row
}

// deviceRow adds what the dataplane says of a port that it has.
func deviceRow(row *model.Interface, v bridge.InterfaceView, d *device) {
	up := d.state.GetLink() == api.Link_LINK_UP
	connected := up || d.state.GetLink() == api.Link_LINK_SETUP
	row.AdminState, row.LinkState = ptr(model.InterfaceAdminStateUp), ptr(model.InterfaceLinkStateDown)
	if up {
		row.LinkState = ptr(model.InterfaceLinkStateUp)
	}
	row.MACInUse = &v.MAC
	if d.want.MTU > 0 {
		row.MTU = &d.want.MTU
	}
	netDeviceRow(row, d.state.GetDevice())
	resets := 2 * int(d.state.GetConnects()) // a peer comes, a peer goes
	if connected && resets > 0 {
		resets--
	}
	row.LinkResets = &resets
	row.Status = deviceStatus(d, connected)
	if d.isHost() {
		hostRow(row, d.state.GetHost())
	}
}

// isHost reports whether the port is a device of the kernel.
func (d *device) isHost() bool {
	return d.want.Type == bridge.TypeTAP || d.want.Type == bridge.TypeInternal
}

// localStatus is Interface.status of a bridge's own port that is no device.
func localStatus(v bridge.InterfaceView, failed *failure) map[string]string {
	switch {
	case failed != nil:
		return map[string]string{"link": "waiting", "reason": failed.text}
	case v.Note != "":
		return map[string]string{"link": "none", "reason": v.Note}
	}
	return nil
}

// hostRow adds what there is of a device of the kernel, as it is there.
func hostRow(row *model.Interface, h *api.HostState) {
	row.AdminState, row.Ifindex = ptr(model.InterfaceAdminStateDown), ptr(int(h.GetIfindex()))
	if h.GetUp() {
		row.AdminState = ptr(model.InterfaceAdminStateUp)
	}
	if h != nil {
		row.MACInUse, row.MTU = ptr(h.GetMac()), ptr(int(h.GetMtu()))
		row.Status["driver_name"] = "tun"
		row.Status["device"] = h.GetName()
		row.Status["netns"] = fmt.Sprintf("net:[%d]", h.GetNetns())
	}
}

// netDeviceRow adds what the kernel says of the network device behind a port.
func netDeviceRow(row *model.Interface, n *api.NetDevice) {
	if n == nil {
		return
	}
	row.MACInUse, row.MTU, row.Ifindex = ptr(n.GetMac()), ptr(int(n.GetMtu())), ptr(int(n.GetIndex()))
	if !n.GetUp() {
		row.AdminState = ptr(model.InterfaceAdminStateDown)
	}
}

// deviceStatus is Interface.status, with the keys of ovs-vswitchd where it has
// them.
func deviceStatus(d *device, connected bool) map[string]string {
	s := map[string]string{"link": strings.ToLower(strings.TrimPrefix(d.state.GetLink().String(), "LINK_"))}
	if d.state.GetReason() != "" {
		s["reason"] = d.state.GetReason()
	}
	switch d.want.Type {
	case bridge.TypeVhostServer:
		s["mode"] = "server"
	case bridge.TypeVhostClient:
		s["mode"] = "client"
	case bridge.TypeAFXDP:
		return afxdpStatus(s, d)
	case bridge.TypeTAP, bridge.TypeInternal:
		return s
	case bridge.TypeGeneve, bridge.TypeVXLAN:
		return tunnelStatus(s, d)
	default:
		s["peer"] = d.want.Peer
		return s
	}
	s["socket"] = d.want.Path
	s["status"] = "disconnected"
	if connected {
		s["status"] = "connected"
		s["num_of_vrings"] = strconv.Itoa(2 * int(d.state.GetQueues()))
		s["features"] = strings.Join(d.state.GetFeatures(), ",")
	}
	return s
}

// tunnelStatus is Interface.status of a tunnel.
func tunnelStatus(s map[string]string, d *device) map[string]string {
	if how := d.state.GetHow(); how != "" { // from ADDRESS to ADDRESS by DEVICE
		s["tunnel"] = how
		s["tunnel_egress_iface"] = how[strings.LastIndexByte(how, ' ')+1:]
	}
	return s
}

// afxdpStatus is Interface.status of an AF_XDP port.
func afxdpStatus(s map[string]string, d *device) map[string]string {
	if n := d.state.GetDevice(); n != nil {
		s["driver_name"] = n.GetDriver()
	}
	if f := d.state.GetFeatures(); len(f) > 0 {
		s["features"] = strings.Join(f, ",")
		s["n_rxq"] = strconv.Itoa(int(d.state.GetQueues()))
		s["xdp-mode"] = d.state.GetHow()
	}
	return s
}

// statistics are Interface.statistics, with the keys of ovs-vswitchd and, where there were
// any, drops by its rates and by port security and what was finished in software on the
// way out.
func statistics(p *api.PortStats) map[string]int {
	s := map[string]int{
		"rx_packets": int(p.GetRxFrames()), "rx_bytes": int(p.GetRxBytes()), "rx_dropped": drops(p.GetRxDrops()), "rx_errors": 0,
		"tx_packets": int(p.GetTxFrames()), "tx_bytes": int(p.GetTxBytes()), "tx_dropped": drops(p.GetTxDrops()), "tx_errors": 0,
	}
	f := p.GetFinished()
	for key, n := range map[string]uint64{
		"ovs_rx_qos_drops": dropped(p.GetRxDrops(), "ingress_rate"), "ovs_tx_qos_drops": dropped(p.GetTxDrops(), "egress_rate"),
		"rx_port_security_drops": dropped(p.GetRxDrops(), "port_security"),
		"tx_finished_checksums":  f.GetChecksums(), "tx_finished_tcp": f.GetTcp(),
		"tx_finished_udp": f.GetUdp(), "tx_finished_segments": f.GetSegments(),
		"tx_merged_tcp": f.GetMerged(), "tx_merged_segments": f.GetJoined(),
	} {
		if n != 0 {
			s[key] = int(n)
		}
	}
	return s
}

// dropped is how many frames were dropped for a reason.
func dropped(list []*api.Drop, why string) uint64 {
	for _, d := range list {
		if d.GetReason() == why {
			return d.GetFrames()
		}
	}
	return 0
}

func drops(list []*api.Drop) int {
	n := 0
	for _, d := range list {
		n += int(d.GetFrames())
	}
	return n
}

// interfaceColumns names the columns in which two rows differ, but for
// statistics.
func interfaceColumns(a, b *model.Interface) []string {
	return differing(
		column{"admin_state", equal(a.AdminState, b.AdminState)},
		column{"error", equal(a.Error, b.Error)},
		column{"ifindex", equal(a.Ifindex, b.Ifindex)},
		column{"link_resets", equal(a.LinkResets, b.LinkResets)},
		column{"link_state", equal(a.LinkState, b.LinkState)},
		column{"mac_in_use", equal(a.MACInUse, b.MACInUse)},
		column{"mtu", equal(a.MTU, b.MTU)},
		column{"ofport", equal(a.Ofport, b.Ofport)},
		column{"status", maps.Equal(a.Status, b.Status)},
	)
}

// bridgeRow is what a Bridge row shall say.
func bridgeRow(v bridge.View, version string) *model.Bridge {
	row := &model.Bridge{DatapathID: &v.DatapathID, DatapathVersion: "millrace " + version}
	if v.Error != "" {
		row.Status = map[string]string{"error": v.Error}
	}
	return row
}

func bridgeColumns(a, b *model.Bridge) []string {
	return differing(
		column{"datapath_id", equal(a.DatapathID, b.DatapathID)},
		column{"datapath_version", a.DatapathVersion == b.DatapathVersion},
		column{"status", maps.Equal(a.Status, b.Status)},
	)
}

// portRow is what a Port row shall say.
func portRow(problem string) *model.Port {
	row := &model.Port{}
	if problem != "" {
		row.Status = map[string]string{"error": problem}
	}
	return row
}

func portColumns(a, b *model.Port) []string {
	return differing(column{"status", maps.Equal(a.Status, b.Status)})
}

// rootRow is what the Open_vSwitch row shall say. There is no DPDK whose version
// could be told; that ports of its kind can be had is what dpdk_initialized says
// to those who look.
func rootRow(next int, ovs string, types []string) *model.OpenvSwitch {
	return &model.OpenvSwitch{
		CurCfg: next, OVSVersion: &ovs, DpdkInitialized: true,
		DatapathTypes: []string{"netdev", "system"},
		IfaceTypes:    interfaceTypes(types),
	}
}

// interfaceTypes are the types that rows may name, of those that the dataplane
// has.
func interfaceTypes(types []string) []string {
	list := slices.Clone(types)
	if slices.Contains(types, bridge.TypeAFXDP) {
		list = append(list, bridge.TypeSystem)
	}
	slices.Sort(list)
	return list
}

func rootColumns(a, b *model.OpenvSwitch) []string {
	return differing(
		column{"cur_cfg", a.CurCfg == b.CurCfg},
		column{"datapath_types", sameSet(a.DatapathTypes, b.DatapathTypes)},
		column{"dpdk_initialized", a.DpdkInitialized == b.DpdkInitialized},
		column{"dpdk_version", equal(a.DpdkVersion, b.DpdkVersion)},
		column{"iface_types", sameSet(a.IfaceTypes, b.IfaceTypes)},
		column{"ovs_version", equal(a.OVSVersion, b.OVSVersion)},
		column{"system_type", equal(a.SystemType, b.SystemType)},
		column{"system_version", equal(a.SystemVersion, b.SystemVersion)},
	)
}

// A column of two rows: does it have the same value in both?
type column struct {
	name string
	same bool
}

func differing(columns ...column) []string {
	var names []string
	for _, c := range columns {
		if !c.same {
			names = append(names, c.name)
		}
	}
	return names
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func ptr[T any](v T) *T { return &v }

// text is s, or nothing if it is empty.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
