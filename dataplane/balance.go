package dataplane

import (
	"millrace/dataplane/conntrack"
	"millrace/dataplane/sys"
	"millrace/flowtable"
)

// look answers a Connect that takes note of nothing.
func (c *connector) look(zone uint16, got *flowtable.Connected) {
	p, v := &c.packet, &c.looked
	if c.trace {
		c.table.Peek(zone, p, nil, v)
	} else {
		c.worker.Look(zone, p, v)
		got.Cacheable = v.Cacheable && v.Uses&conntrack.UsesICMP == 0
		got.Guard = flowtable.Guard{Cell: c.first + flowtable.Cell(v.Cell), Want: v.Want}
	}
	got.State = uint32(v.State)
	original(&v.Original, got)
	depends(p, v, &got.Mask)
}

// clientOf is a client as the table has it.
func clientOf(c *flowtable.Client) conntrack.Client {
	return conntrack.Client{Datapath: c.Bridge, IP: c.IP, VIP: c.VIP, Port: c.Port, Proto: c.Proto, Six: c.Six}
}

// recall is flowtable.SideTables.Recall.
func (c *connector) recall(k *flowtable.Client) (r flowtable.Recalled) {
	client, now := clientOf(k), c.nanos(sys.TSC())
	if c.trace {
		b, ok := c.table.PeekAffinity(&client, now)
		k.Backend, k.BackendPort = b.IP, b.Port
		return flowtable.Recalled{Known: ok}
	}
	b, m, ok := c.worker.Affinity(&client, now)
	k.Backend, k.BackendPort = b.IP, b.Port
	return c.recalled(m, ok)
}

// stick is flowtable.SideTables.Stick.
func (c *connector) stick(k *flowtable.Client) flowtable.Recalled {
	if c.trace {
		return flowtable.Recalled{}
	}
	client, b := clientOf(k), conntrack.Backend{IP: k.Backend, Port: k.BackendPort}
	return c.recalled(c.worker.SetAffinity(&client, b, k.Timeout, c.nanos(sys.TSC())), true)
}

// recalled is an answer as walks have it.
func (c *connector) recalled(m conntrack.Memory, known bool) flowtable.Recalled {
	return flowtable.Recalled{Known: known, Guard: flowtable.Guard{Cell: c.first + flowtable.Cell(m.Cell), Want: m.Want}, Ref: m.Ref}
}
