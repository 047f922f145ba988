package flows

import (
	"fmt"
	"strings"

	"millrace/control/logical"
	"millrace/flowtable"
)

// A machine does what rows say, step by step, as the language means it.
type machine struct {
	at     *[logical.NumFields]flowtable.Field
	s      *logical.Symbols
	w      labWorld
	rows   map[int][]*labRow // by table
	p      packet
	ended  bool // this copy of the packet
	depth  int
	steps  []string      // rows that matched
	out    []string      // what left
	made   bool          // the packet is a reply
	came   logical.Value // its destination when it came in
	reject bool
	wild   bool // what is done is not defined: too deep, or a tag of two
}

// A labRow is a row, parsed.
type labRow struct {
	uuid     string
	priority int
	match    logical.Expr
	acts     logical.Actions
}

// table looks a packet up.
func (m *machine) table(n int) {
	if m.depth++; m.depth > 30 {
		m.wild = true
		return
	}
	defer func() { m.depth-- }()
	var best *labRow
	for _, r := range m.rows[n] {
		if (best == nil || r.priority > best.priority) && m.s.Eval(r.match, &m.p, m.w) && (r.acts.Prereq == nil || m.s.Eval(r.acts.Prereq, &m.p, m.w)) {
			best = r
		}
	}
	if best == nil {
		return
	}
	m.steps = append(m.steps, best.uuid)
	m.list(best.acts.List, n)
}

func (m *machine) list(list []logical.Action, table int) {
	list, err := unstack(list)
	m.wild = m.wild || err != nil
	for _, a := range list {
		if m.ended || m.wild {
			return
		}
		m.action(a, table)
	}
}

func (m *machine) action(a logical.Action, table int) {
	switch a := a.(type) {
	case *logical.Load:
		v, mask := a.Value.Value, logical.Ones(bitsIn(a.To))
		switch a.Value.Kind {
		case logical.ConstString:
			port, _ := m.w.Port(a.Value.Text)
			v = logical.U64(uint64(port))
		case logical.ConstMasked:
			mask = a.Value.Mask
		}
		m.put(a.To, v.Or(m.get(a.To).AndNot(mask)))
	case *logical.Move:
		m.put(a.To, m.get(a.From))
	case *logical.Exchange:
		x, y := m.get(a.A), m.get(a.B)
		m.put(a.A, y)
		m.put(a.B, x)
	case *logical.Next:
		if a.Table == logical.NextTable {
			m.table(table + 1)
		} else {
			m.table(a.Table)
		}
	case *logical.Block:
		if _, ok := replyKind(a.Verb); ok {
			m.reject = a.Verb == "reject"
			m.reply(a, table)
			return
		}
		copied := *m
		copied.list(a.List, table)
		m.steps, m.out, m.wild = copied.steps, copied.out, m.wild || copied.wild
	case *logical.Simple:
		m.simple(a)
	}
}

func (m *machine) simple(a *logical.Simple) {
	if a.Verb == "output" {
		if port := m.p[logical.FieldOutport].Lo; port != 0 {
			m.out = append(m.out, m.frame(uint32(port)))
		}
		return
	}
	ttl := &m.p[logical.FieldIPTTL].Lo
	if *ttl <= 1 {
		m.ended = true
		return
	}
	*ttl--
}

// get and put read and write bits.
func (m *machine) get(r logical.Ref) logical.Value {
	return m.p[r.Symbol.Field].Shr(lowBit(r)).And(logical.Ones(bitsIn(r)))
}

func (m *machine) put(r logical.Ref, v logical.Value) {
	f := &m.p[r.Symbol.Field]
	was := *f
	mask := logical.Ones(bitsIn(r)).Shl(lowBit(r))
	*f = f.AndNot(mask).Or(v.Shl(lowBit(r)).And(mask))
	if r.Symbol.Field == logical.FieldVLANTCI {
		switch {
		case f.Bit(12):
		case was.Bit(12):
			*f = logical.Value{} // popped
		default:
			*f = was // there is no tag to write to
		}
	}
}

// frame is what leaves: a port, and the words of the key.
func (m *machine) frame(port uint32) string {
	c := context(m.at, &m.p)
	return frameText(port, flowtable.Key(c[:flowtable.KeyWords]))
}

func frameText(port uint32, k flowtable.Key) string {
	k[flowtable.WordIn] &= 0xffffffff // the in port stays
	return fmt.Sprintf("%d:%x", port, k)
}

// run does a composed program to a key, and returns what leaves.
func run(ops []flowtable.Op, k flowtable.Key) []string {
	var out []string
	var saved []flowtable.Key
	const tag = 0xffff << 16
	for _, op := range ops {
		switch op.Code {
		case flowtable.OpSet:
			k[op.Word] = k[op.Word]&^op.Mask | op.Value
		case flowtable.OpPushVLAN:
			k[flowtable.WordIn] = k[flowtable.WordIn]&^tag | tagBit
		case flowtable.OpPopVLAN:
			k[flowtable.WordIn] &^= tag
		case flowtable.OpReply:
			k = answer(&op, k)
		case flowtable.OpSave:
			saved = append(saved, k)
		case flowtable.OpRestore:
			k = saved[len(saved)-1]
			saved = saved[:len(saved)-1]
		case flowtable.OpOutput:
			out = append(out, frameText(op.Arg, k))
		}
	}
	return out
}

// writeNames are symbols that actions write.
func writeNames() []string {
	return strings.Fields(`outport inport reg0 reg1 reg3 reg5 xreg0 xreg4 xxreg0 xxreg1 flags flags.loopback pkt.mark eth.src eth.dst
		vlan.vid vlan.pcp ip.ttl ip.dscp ip.ecn ip4.src ip4.dst ip6.src ip6.dst icmp4.type arp.spa arp.tha nd.target tcp.src udp.dst`)
}

// actions writes a list of actions for a table.
func (w *writer) actions(table, depth int) string {
	var list []string
	for range w.IntN(4) {
		list = append(list, w.action(table, depth))
	}
	switch {
	case w.IntN(3) == 0:
		list = append(list, `outport = "p`+w.pick("1", "2", "3")+`";`, "output;")
	case table < 3:
		list = append(list, "next;")
	}
	if len(list) == 0 {
		return "drop;"
	}
	return strings.Join(list, " ")
}

func (w *writer) action(table, depth int) string {
	switch w.IntN(13) {
	case 12:
		return w.replyText(table)
	case 0:
		return "ip.ttl--;"
	case 1:
		return w.pick("vlan.tci = 0x1005;", "vlan.tci = 0;", "vlan.vid = 3;", "vlan.tci = 0x3001;", "vlan.tci[0..3] = 2;")
	case 2:
		if depth > 0 {
			return "clone { " + w.actions(table, depth-1) + " };"
		}
	case 3:
		return "output;"
	case 4:
		if table < 3 && w.IntN(3) == 0 {
			return fmt.Sprintf("next(%d);", table+1+w.IntN(3-table))
		}
	case 5:
		a, b := w.pick(writeNames()...), w.pick(writeNames()...)
		return w.pick(fmt.Sprintf("push(%s); push(%s); pop(%s); pop(%s);", a, b, a, b), fmt.Sprintf("push(%s); pop(%s);", a, b))
	}
	to := w.pick(writeNames()...)
	sym := w.s.Lookup(to)
	bits := sym.Width
	sub := ""
	if bits > 1 && sym.Level == logical.Ordinal && w.IntN(2) == 0 {
		low := w.IntN(bits)
		high := low + w.IntN(bits-low)
		sub, bits = fmt.Sprintf("[%d..%d]", low, high), high-low+1
	}
	switch {
	case sym.Width == 0:
		return to + w.pick(` = "p1";`, ` = "p2";`, " = inport;", " = outport;", " <-> outport;", ` = "none";`)
	case w.IntN(2) == 0:
		mask := ""
		if w.IntN(3) == 0 {
			mask = "/" + w.number(bits)
		}
		return to + sub + " = " + w.number(bits) + mask + ";"
	}
	from := w.s.Lookup(w.pick(writeNames()...))
	if from.Width < bits {
		return to + sub + " = " + w.number(bits) + ";"
	}
	src := from.Name
	if from.Width > bits {
		low := w.IntN(from.Width - bits + 1)
		src = fmt.Sprintf("%s[%d..%d]", from.Name, low, low+bits-1)
	}
	return to + sub + w.pick(" = ", " = ", " <-> ") + src + ";"
}
