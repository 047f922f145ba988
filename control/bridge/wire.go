package bridge

// extras reads what Open vSwitch does not know of ports.
func (r *reader) extras(f *found) {
	f.want.Wire = f.port.OtherConfig[KeyWire]
	n, err := number(f.port.OtherConfig, KeyMACLimit, 0, 1, macLimitMax)
	r.warn(f, "other_config", err)
	f.want.MACLimit = n
}

// absent reports whether there is nothing in the dataplane behind a row: a bridge's
// own port that is no device.
func (f *found) absent() bool { return f.view.Local && !f.hosted }

// wires holds wires to the ports that there are. A port whose wire leads
// nowhere is its bridge's, as it is when the other end is deleted.
func (r *reader) wires() {
	ends := map[string]*found{}
	for _, f := range r.found {
		if !f.fatal && !f.absent() {
			ends[f.row.Name] = f
		}
	}
	for _, f := range r.found {
		to := f.want.Wire
		if to == "" || f.fatal || f.absent() {
			continue
		}
		var err error
		switch o := ends[to]; {
		case to == f.row.Name:
			err = conflict("%s: the port is wired to itself", KeyWire)
		case o == nil:
			err = conflict("%s=%q: there is no such port", KeyWire, short(to))
		case f.row.Type == TypePatch || o.row.Type == TypePatch:
			err = conflict("%s=%q: patch ports cannot be wired", KeyWire, short(to))
		}
		if err != nil {
			f.want.Wire = ""
			r.warn(f, "other_config", err)
		}
	}
}
