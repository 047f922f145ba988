package bridge

import (
	"slices"
	"strings"
)

// Options of AF_XDP ports: those of Open vSwitch, and which frames go to the
// port instead of the kernel.
const (
	keyMode   = "xdp-mode"
	keyWakeup = "use-need-wakeup"
	keyBusy   = "xdp-busy-poll"
	keySend   = "xdp-send"
	keyVLANs  = "xdp-vlans"
	keyMACs   = "xdp-macs"
	keyPorts  = "xdp-udp-ports"
)

// xdpModes are the values of xdp-mode.
func xdpModes() []string {
	return []string{"best-effort", "native-with-zerocopy", "native", "generic"}
}

// afxdp reads a port of a network device. Devices of type system become such
// ports, too. Which frames go to the port is for the dataplane to judge: it
// refuses the port if it does not understand, so that nothing goes where it was
// not asked for.
func (r *reader) afxdp(f *found) {
	f.want.Type = TypeAFXDP
	if f.row.MTURequest == nil {
		f.want.MTU = 0 // what the device has
	}
	if len(f.row.Name) > deviceMax {
		r.refuse(f, "name", bad("%q has %d bytes, the name of a network device at most %d", short(f.row.Name), len(f.row.Name), deviceMax))
	}
	r.options(f, keyMode, keyWakeup, keyBusy, keySend, keyVLANs, keyMACs, keyPorts, "n_rxq")
	n, err := number(f.row.Options, "n_rxq", 0, 1, QueuesMax)
	r.warn(f, "options", err)
	f.want.Queues = n
	for _, key := range []string{keyVLANs, keyMACs, keyPorts} {
		f.want.option(key, f.row.Options[key])
	}
	r.choice(f, keyMode, xdpModes()...)
	r.choice(f, keyWakeup, "true", "false")
	r.choice(f, keyBusy, "false", "true")
	r.choice(f, keySend, "socket", "runs")
}

// choice reads an option that has a few values, of which the first is used where
// the row says nothing or nonsense.
func (r *reader) choice(f *found, key string, values ...string) {
	v, ok := f.row.Options[key]
	switch {
	case !ok || v == values[0]:
	case slices.Contains(values, v):
		f.want.option(key, v)
	default:
		r.warn(f, "options", bad("%s=%q is none of %s: %s is used", key, short(v), strings.Join(values, ", "), values[0]))
	}
}

// option sets an option, if there is something to set.
func (p *Port) option(key, value string) {
	if value == "" {
		return
	}
	if p.Options == nil {
		p.Options = map[string]string{}
	}
	p.Options[key] = value
}
