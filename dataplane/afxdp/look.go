package afxdp

import "slices"

// Facts are what a network device's driver says, for those who look for what is wrong.
type Facts struct {
	Driver       string
	Queues, Most int      // receive queues that there are, and could be
	InTheWay     []string // offloads that are on although a port must have them off, by their names of ethtool
}

// Look asks for a device of this network namespace.
func Look(name string) (Facts, error) {
	d, err := look(name)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Driver: d.driver, Queues: d.rx, Most: d.most}
	c, err := newControl()
	if err != nil {
		return Facts{}, err
	}
	defer c.close()
	if d.kind == veth {
		return f, nil // the other end stays as it is in native mode, and the port sees to it in generic mode
	}
	for _, feature := range nativeFeatures {
		if feature.isOn(&c, name) {
			f.InTheWay = append(f.InTheWay, feature.name)
		}
	}
	slices.Sort(f.InTheWay)
	return f, nil
}

// isOn reports whether a feature is on. One that the driver does not know is not.
func (f feature) isOn(c *control, name string) bool {
	v := ethtoolValue{cmd: f.get}
	if err := ethtool(c.fd.Int(), name, &v); err != nil {
		return false
	}
	bits := f.bit
	if bits == 0 {
		bits = 1
	}
	return v.data&bits != 0
}
