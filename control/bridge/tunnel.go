package bridge

// Options of tunnel ports, as in the Open_vSwitch schema.
const (
	keyRemote = "remote_ip"
	keyMark   = "egress_pkt_mark"
)

// tunnelKeys are all options of tunnel ports.
func tunnelKeys() []string {
	return []string{keyRemote, "local_ip", "key", "in_key", "out_key", "dst_port", "csum", "tos", "ttl", "df_default"}
}

// IsTunnel reports whether the ports of a type are tunnels.
func IsTunnel(portType string) bool { return portType == TypeGeneve || portType == TypeVXLAN }

// tunnel reads a tunnel port. What its options mean is for the dataplane to judge, which
// refuses the port if it does not understand: frames would go where they were not sent.
func (r *reader) tunnel(f *found) {
	f.want.MTU = 0 // that of the path
	if f.row.MTURequest != nil {
		r.warn(f, "mtu_request", conflict("the MTU of a tunnel is that of its path: mtu_request has no effect"))
	}
	r.options(f, append(tunnelKeys(), keyMark)...)
	if f.row.Options[keyMark] != "" {
		r.warn(f, "options", notYet(keyMark))
	}
	for _, key := range tunnelKeys() {
		f.want.option(key, f.row.Options[key])
	}
	if f.row.Options[keyRemote] == "" {
		r.refuse(f, "options", bad("remote_ip is missing: it is the address of the tunnel's other end"))
	}
}
