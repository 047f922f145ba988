package bridge

// number gives every interface its OpenFlow port number, bridge by bridge: the
// one that its row asks for, else the one that it has, else the lowest that is
// free. When two want one number, the first by name gets it.
func (r *reader) number() {
	taken := map[string]map[int]bool{}
	for _, f := range r.found {
		if taken[f.bridge.UUID] == nil {
			taken[f.bridge.UUID] = map[int]bool{}
		}
		if f.view.Local && f.row.Name == f.bridge.Name {
			f.view.Ofport = OfportLocal
		}
	}
	give := func(want func(*found) *int) {
		for _, f := range r.found {
			n := want(f)
			used := taken[f.bridge.UUID]
			if f.fatal || f.view.Ofport != 0 || n == nil || *n < 1 || *n > ofportMax || used[*n] {
				continue
			}
			used[*n], f.view.Ofport = true, *n
		}
	}
	give(func(f *found) *int { return f.row.OfportRequest })
	give(func(f *found) *int { return f.row.Ofport })
	free := map[string]int{}
	give(func(f *found) *int {
		n := max(free[f.bridge.UUID], 1)
		for taken[f.bridge.UUID][n] {
			n++
		}
		free[f.bridge.UUID] = n
		return &n
	})
	for _, f := range r.found {
		if want := f.row.OfportRequest; want != nil && !f.fatal && f.view.Ofport != *want {
			r.warn(f, "ofport_request", conflict("%d is taken by another port of the bridge", *want))
		}
	}
}
