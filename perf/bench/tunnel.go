package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/perf/pktgen"
	"millrace/perf/xdpgen"
)

// An underlay is what a side's tunnel leaves by: a bridge, mrphya or mrphyb, with the
// generator's second port as its uplink, or a veth whose far end sends all back to where it
// came from.
type underlay struct {
	veth bool
	runs bool           // our side sends by runs of its XDP program
	echo []*xdpgen.Echo // at the far ends of both sides
}

const keyPerPacket = "cycles"

// geneveCases are vhost-user ports and Geneve.
//
// Over AF_XDP, frames of port 0 leave by the tunnel, the veth's far end sends them back, and they come out
// at port 1: each is put into a tunnel and taken out of it, by one core.
//
// In the loop of vhost-user ports, port 0 sends frames that leave at port 1 in outer headers, and port 1
// sends such frames that come out at port 0, both at once. A frame of either is one packet.
func geneveCases() []scenario {
	var cases []scenario
	for _, size := range []int{60, 1400} {
		c := scenario{
			Sizes: []pktgen.Share{{Size: size, Weight: 1}}, ceiling: noCeiling,
			metrics: []metric{{Key: keyPerPacket, Title: "TSC cycles for a packet", Format: "%.0f"}},
		}
		wire, loop := c, c
		wire.Name, wire.About = fmt.Sprint("geneve-", size), fmt.Sprintf("vhost-user to Geneve over AF_XDP on a veth and back, %d bytes", size)
		wire.underlay, wire.turn = &underlay{veth: true}, turnThrough
		runs := wire
		runs.Name, runs.About, runs.underlay = wire.Name+"-runs", wire.About+", with xdp-send=runs", &underlay{veth: true, runs: true}
		loop.Name, loop.About = fmt.Sprint("geneve-loop-", size), fmt.Sprintf("Geneve out of and into a vhost-user port, both at once, %d bytes", size)
		loop.underlay, loop.turn = &underlay{}, turnBoth
		cases = append(cases, wire, runs, loop)
	}
	return cases
}

// What a side's underlay is called and has, by the letter of its ports.
func phyBridge(letter string) string { return "mrphy" + letter }
func phyDevice(letter string) string { return "mru" + letter }
func phyFar(letter string) string    { return "mruf" + letter }
func letterOf(ports []pktgen.Port) string {
	return ports[0].Name[:1]
}

// ends are the addresses of a side's tunnel.
func ends(letter string) (local, remote net.IP) {
	net3 := letter[0] - 'a' + 1
	return net.IPv4(172, 31, net3, 1).To4(), net.IPv4(172, 31, net3, 2).To4()
}

// phyMAC is that of the tunnel's local end; the remote one has that of the generator's second port.
func phyMAC(letter string) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 1, letter[0] - 'a' + 1}
}

const tunnelKey = 7

// prepare makes the veths, and returns the function that takes them away.
func (u *underlay) prepare() (restore func(), err error) {
	if !u.veth {
		return func() {}, nil
	}
	letters := []string{"a", "b"}
	restore = func() {
		for _, e := range u.echo {
			_ = e.Close()
		}
		u.echo = nil
		for _, l := range letters {
			_ = ip("link del " + phyDevice(l)) // some may not be there
		}
	}
	restore()
	for _, l := range letters {
		if err = u.plug(l); err != nil {
			restore()
			return nil, err
		}
	}
	return restore, nil
}

func (u *underlay) plug(letter string) error {
	dev, far := phyDevice(letter), phyFar(letter)
	err := ip(fmt.Sprintf("link add %s address %s type veth peer name %s address %s", dev, phyMAC(letter), far, farMAC(1)))
	for _, d := range []string{dev, far} { // no frames but the generator's
		err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/"+d+"/disable_ipv6", []byte("1"), 0o644))
	}
	if err = errors.Join(err, ip("link set "+dev+" up", "link set "+far+" up")); err != nil {
		return err
	}
	f, err := net.InterfaceByName(far)
	if err != nil {
		return err
	}
	e, err := xdpgen.NewEcho(f.Index)
	if err == nil {
		u.echo = append(u.echo, e)
	}
	return err
}

// ours makes the tunnel of our side: port mrt of br0. The kernel has the local address where users have it: on the
// device itself, or on an internal port of the uplink's bridge.
func (u *underlay) ours(ctx context.Context, o *ours) error {
	local, remote := ends("a")
	phy, dev := phyBridge("a"), phyDevice("a")
	commands := [][]string{{"bridge", "add", phy}}
	if u.veth {
		if err := ip(fmt.Sprintf("addr add %s/24 dev %s", local, dev)); err != nil {
			return err
		}
		add := []string{"port", "add", phy, dev, "--type", "afxdp", "--option", "xdp-udp-ports=6081", "--wait=20s"}
		if u.runs {
			add = append(add, "--option", "xdp-send=runs")
		}
		commands = append(commands, add)
	} else {
		commands = append(commands,
			[]string{"port", "add", phy, portName(1), "--type", "dpdkvhostuserclient", "--path", o.gen[1].Path},
			[]string{"port", "add", phy, dev, "--type", "internal", "--ip", local.String() + "/24", "--mac", phyMAC("a").String(), "--wait=20s"})
	}
	commands = append(commands, []string{"port", "add", "br0", "mrt", "--type", "geneve",
		"--option", "remote_ip=" + remote.String(), "--option", fmt.Sprint("key=", tunnelKey)})
	for _, c := range commands {
		if _, err := o.tool(ctx, c...); err != nil {
			return err
		}
	}
	if err := ip(fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", remote, farMAC(1), dev)); err != nil {
		return err
	}
	out := portName(0)
	if u.veth {
		out = portName(1)
	}
	if _, err := o.tool(ctx, "bridge", "set", "br0", "--pipeline", "flows"); err != nil {
		return err
	}
	for _, rule := range [][2]string{{portName(0), "mrt"}, {"mrt", out}} {
		if _, err := o.tool(ctx, "flow", "add", "br0", fmt.Sprintf("inport == %q", rule[0]), fmt.Sprintf("outport = %q; output;", rule[1])); err != nil {
			return err
		}
	}
	return nil
}

// Numbers of OVS's ports in OpenFlow, besides those of the generator.
const tunnelPort = 10

// ovs makes the tunnel of OVS, as its guide for userspace tunnels says: the uplink is in a bridge whose own port
// has the local address. The neighbour is told of, so that nothing depends on ARP.
func (u *underlay) ovs(ctx context.Context, v *ovs) error {
	local, remote := ends("b")
	phy := phyBridge("b")
	uplink := []string{"add-port", phy, phyDevice("b"), "--", "set", "Interface", phyDevice("b"), "type=afxdp", "options:n_rxq=1"}
	if !u.veth {
		uplink = []string{"add-port", phy, "mrup", "--", "set", "Interface", "mrup", "type=dpdkvhostuserclient", "options:vhost-server-path=" + v.gen[1].Path}
	}
	for _, c := range [][]string{
		{"add-br", phy, "--", "set", "Bridge", phy, "datapath_type=netdev", "fail-mode=standalone", `other_config:hwaddr="` + phyMAC("b").String() + `"`},
		uplink,
		{"add-port", "br0", "mrt", "--", "set", "Interface", "mrt", "type=geneve", "options:remote_ip=" + remote.String(), fmt.Sprint("options:key=", tunnelKey), fmt.Sprint("ofport_request=", tunnelPort)},
	} {
		if _, err := v.o.Vsctl(ctx, c...); err != nil {
			return err
		}
	}
	if err := ip(fmt.Sprintf("addr add %s/24 dev %s", local, phy), "link set "+phy+" up"); err != nil {
		return err
	}
	if _, err := v.o.Appctl(ctx, "tnl/neigh/set", phy, remote.String(), farMAC(1).String()); err != nil {
		return err
	}
	out := 1
	if u.veth {
		out = 2
	}
	return v.o.ReplaceFlows(ctx, "br0", fmt.Sprintf("in_port=1,actions=output:%d\nin_port=%d,actions=output:%d\n", tunnelPort, tunnelPort, out))
}

// bridgePorts are those of the generator's ports are in br0: the last may be the uplink.
func (c scenario) bridgePorts(all []pktgen.Port) []pktgen.Port {
	if c.underlay != nil && !c.underlay.veth {
		return all[:1]
	}
	return all
}

// turnThrough is turnRate that nearly all frames must survive.
func turnThrough(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	return turnTunnel(ctx, s, c, who, s.generator(c, who.ports(), n))
}

// turnBoth sends both ways at once, from port 1 in outer headers.
func turnBoth(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	cfg := s.generator(c, who.ports(), n)
	cfg.Direction = pktgen.Bidi
	letter := letterOf(who.ports())
	cfg.Ports[1].Silent, cfg.Ports[1].Traffic = false, &pktgen.Traffic{Wrap: func(frame []byte) []byte { return inGeneve(letter, frame) }}
	return turnTunnel(ctx, s, c, who, cfg)
}

func turnTunnel(ctx context.Context, _ settings, _ scenario, who side, cfg pktgen.Config) (sample, error) {
	if err := who.mark(ctx); err != nil {
		return sample{}, err
	}
	r, err := pktgen.Run(ctx, cfg)
	if err != nil {
		return sample{}, err
	}
	u, err := who.usage(ctx)
	if err != nil {
		return sample{}, err
	}
	for i, p := range r.Ports {
		if sends := !cfg.Ports[1-i].Silent; sends && p.RxMpps == 0 {
			return sample{}, fmt.Errorf("nothing came to port %d: %s", i, who.explain(ctx))
		}
	}
	return sample{Mpps: r.Total.RxMpps, Gbps: r.Total.RxGbps, Cycles: u.Cycles, Values: map[string]float64{keyPerPacket: u.Cycles}}, nil
}

// inGeneve puts a frame into a packet from the remote end of a side's tunnel, without UDP checksum, which is how
// both switches send.
func inGeneve(letter string, frame []byte) []byte {
	local, remote := ends(letter)
	udp := []byte{0xc3, 0x50, 0x17, 0xc1, 0, 0, 0, 0}      // from port 50000 to 6081
	geneve := []byte{0, 0, 0x65, 0x58, 0, 0, tunnelKey, 0} // no options, Ethernet inside (RFC 8926)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)+len(geneve)+len(frame)))
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: farMAC(1), DstMAC: phyMAC(letter), EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, Flags: layers.IPv4DontFragment, SrcIP: remote, DstIP: local},
		gopacket.Payload(slices.Concat(udp, geneve, frame)))
	if err != nil {
		panic(err) // layers that always fit
	}
	return b.Bytes()
}
