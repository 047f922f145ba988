package doctor

import "strings"

// running looks at the processes of the switch and at its database.
func running(p *Patient) []Finding {
	switch {
	case p.Switch == nil && p.Root:
		return one(Problem, "`millrace run`", "no dataplane answers: %s", p.Absent)
	case p.Switch == nil:
		return one(Unknown, "run it as the user of the switch, or as root, or with its --run-dir", "no dataplane answers: %s", p.Absent)
	case len(p.Switch.Problems) == 0:
		return one(OK, "", "the dataplane, control and the database are at work")
	}
	return p.Switch.Problems
}

// dropsWarn is the share of a port's frames that may be lost for want of room before it
// is said.
const dropsWarn = 0.001

// ports looks for ports with trouble.
func ports(p *Patient) []Finding {
	if p.Switch == nil {
		return one(Unknown, "", "how ports are is not known: no dataplane answers")
	}
	var all []Finding
	up := 0
	for i := range p.Switch.Ports {
		port := &p.Switch.Ports[i]
		if port.Link == "up" {
			up++
		}
		all = append(all, look(port)...)
	}
	if all == nil {
		all = one(OK, "", "%d of %d ports are up, and none has trouble", up, len(p.Switch.Ports))
	}
	return all
}

// look looks at one port.
func look(port *Port) (all []Finding) {
	note := func(g Grade, remedy, format string, args ...any) {
		all = append(all, one(g, remedy, "port %s: "+format, append([]any{port.Name}, args...)...)...)
	}
	vhost := strings.HasPrefix(port.Type, "dpdkvhostuser")
	switch {
	case port.Link == "broken":
		note(Problem, "the peer has to reset or reconnect", "broken: %s", port.Reason)
	case port.Link == "setup":
		note(Notice, "the peer's driver has to start its queues", "its peer is connected and has not started: %s", port.Reason)
	case port.Link == "waiting" && vhost:
		note(Notice, "start the guest", "%s", port.Reason) // guests come and go
	case port.Link == "waiting":
		note(Warning, "", "%s", port.Reason)
	}
	switch {
	case strings.Contains(port.How, "generic XDP"):
		note(Warning, "a driver with native XDP; for a veth also xdp-mode=native", "works in generic mode, the slowest: %s", port.How)
	case strings.Contains(port.How, "copy") && !strings.Contains(port.How, "zero-copy") && port.Device != "":
		note(OK, "", "%s", port.How)
	}
	if all := port.Received + port.Dropped; all > 0 && float64(port.Dropped)/float64(all) > dropsWarn {
		note(Warning, "`millrace drops` says why; `millrace worker show` shows what workers are busy with", "%.2f %% of its frames were lost for want of room", 100*float64(port.Dropped)/float64(all))
	}
	return all
}
