package logical

// Refer returns the references of a and its prerequisite: the ports, meters and
// groups that its actions name. A Load's port that does not exist (its name may be "") loads 0.
func (a Actions) Refer() References {
	var r References
	if a.Prereq != nil {
		r.add(a.Prereq)
	}
	r.addActions(a.List)
	r.settle()
	return r
}

// addActions collects the references of list.
func (r *References) addActions(list []Action) {
	for _, a := range list {
		switch a := a.(type) {
		case *Load:
			r.addConstant(&a.Value)
		case *Block:
			r.addActions(a.List)
		case *LoadBalance:
			for i := range a.Backends {
				if port := a.Backends[i].LogicalPort; port != "" {
					r.Backends = append(r.Backends, port)
				}
			}
		case *FwdGroup:
			r.Ports = append(r.Ports, a.Ports...)
		case *BindVPort:
			r.Ports = append(r.Ports, a.VPort)
		case *Mirror:
			r.Ports = append(r.Ports, a.Port)
		case *UseMeter:
			r.Meters = append(r.Meters, a.Name)
		case *UseGroup:
			r.Groups = append(r.Groups, a.Name)
		}
	}
}
