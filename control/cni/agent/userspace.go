package agent

import (
	"encoding/json"
	"net/netip"
	"path"

	"millrace/control/cni/attach"
)

// Names and files of the userspace CNI plugin, for applications that were written for
// it: the socket is called CID12-IFNAME and lies in the pod's volume itself, beside
// configData-CID12-IFNAME.json.

// userspaceName is the socket's name.
func userspaceName(at *attach.Attachment) string {
	return at.ContainerID[:min(len(at.ContainerID), 12)] + "-" + at.IfName
}

func userspaceConfig(at *attach.Attachment) string {
	return "configData-" + userspaceName(at) + ".json"
}

// A userspaceEntry is what that plugin tells of one interface.
type userspaceEntry struct {
	ContainerID string          `json:"containerId"`
	IfName      string          `json:"ifName"`
	Name        string          `json:"name"`
	Config      userspaceConf   `json:"config"`
	IPResult    userspaceResult `json:"ipResult"`
}

type userspaceConf struct {
	Engine  string         `json:"engine"`
	IfType  string         `json:"iftype"`
	NetType string         `json:"netType"`
	Vhost   userspaceVhost `json:"vhost"`
	Bridge  struct{}       `json:"bridge"`
}

type userspaceVhost struct {
	Mode       string `json:"mode"` // the application's role
	Socketfile string `json:"socketfile"`
}

type userspaceResult struct {
	Interfaces []userspaceInterface `json:"interfaces,omitempty"`
	IPs        []userspaceIP        `json:"ips,omitempty"`
	DNS        struct{}             `json:"dns"`
}

type userspaceInterface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
}

type userspaceIP struct {
	Interface int    `json:"interface"`
	Address   string `json:"address"`
	Gateway   string `json:"gateway,omitempty"`
}

// userspaceFile is the file that tells of the interface, and its name.
func userspaceFile(at *attach.Attachment, p place) (name string, text []byte, err error) {
	e := userspaceEntry{
		ContainerID: at.ContainerID, IfName: at.IfName, Name: at.Network,
		Config: userspaceConf{
			Engine: "ovs-dpdk", IfType: "vhostuser", NetType: "interface",
			Vhost: userspaceVhost{Mode: at.Role(), Socketfile: path.Base(p.inPod)},
		},
		IPResult: userspaceResult{Interfaces: []userspaceInterface{{at.IfName, at.MAC, at.Netns}}},
	}
	for _, ip := range at.IPs {
		e.IPResult.IPs = append(e.IPResult.IPs, userspaceIP{Address: ip, Gateway: gatewayOf(ip, at.Gateways)})
	}
	text, err = json.Marshal(e)
	return userspaceConfig(at), text, err
}

// gatewayOf is the first gateway of an address's family; empty: there is none.
func gatewayOf(ip string, gateways []string) string {
	p, err := netip.ParsePrefix(ip)
	for _, g := range gateways {
		if a, bad := netip.ParseAddr(g); err == nil && bad == nil && a.Is4() == p.Addr().Is4() {
			return g
		}
	}
	return ""
}
