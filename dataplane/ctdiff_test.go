package dataplane

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/dataplane/conntrack"
)

// Random sequences of packets through our connection tracking and that of others, with the
// same pipeline: each packet must have the same verdict, be translated to the same, and
// leave the same state. What may differ is listed, with the reason; docs/conntrack.md has
// that list in words.
//
// A run of the tests compares some hundred sequences, always the same ones; with
// MILLRACE_CT_SEQUENCES=N it is N others, and with MILLRACE_CT_SEED=SEED those of a run before:
//
//	MILLRACE_CT_SEQUENCES=20000 go test -count=1 -v -run TestConntrackAgainst ./dataplane

// A rival is a switch whose connection tracking ours is compared with.
type rival interface {
	// exchange sends packets through it, as frames or as it takes them, and returns what comes out.
	exchange(list []framed) [][]byte
	// read says what is in a frame that has come out.
	read(frame []byte) (ip []byte, state, then byte, mark uint32)
	// table returns its connections.
	table() []conn
	// flush removes them, and fragments that wait.
	flush()
}

// A framed is an IP packet that a side sends.
type framed struct {
	side int
	ip   []byte
}

// A conn is what tables are compared by: a connection of a zone.
type conn struct {
	zone        int
	proto       byte
	orig, reply pair
	state       string
	mark        uint32
	label       uint64
}

// A known is a difference that is meant: the causes that it explains, and why it is.
type known struct {
	cause *regexp.Regexp
	why   string
}

// A contest is a comparison with a rival.
type contest struct {
	*testing.T
	seed         uint64
	w            *writer
	us           *ours
	them         rival
	list         []known
	sameState    map[string]*regexp.Regexp // of TCP: what the rival's may be for each of ours
	oneZone      bool                      // the rival has one zone, and tells neither marks nor what was translated
	steps, equal int                       // steps that were compared; talks without a difference
	talks        int
	seen         map[string]int // known differences, by reason
}

// sequences is how many are compared.
func sequences(t *testing.T) int {
	s := os.Getenv("MILLRACE_CT_SEQUENCES")
	switch {
	case s == "" && raceOn:
		return 100
	case s == "":
		return 300
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("MILLRACE_CT_SEQUENCES: %v", err)
	}
	return n
}

// newContest makes a contest; the writer's settings are the caller's.
func newContest(t *testing.T, us *ours, them rival, list []known) *contest {
	seed := uint64(1)
	if os.Getenv("MILLRACE_CT_SEQUENCES") != "" {
		seed = rand.Uint64()
	}
	if s := os.Getenv("MILLRACE_CT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("MILLRACE_CT_SEED: %v", err)
		}
	}
	return &contest{T: t, seed: seed, w: &writer{Rand: rand.New(rand.NewPCG(seed, 1))}, us: us, them: them, list: list,
		seen: map[string]int{}}
}

// talksOfScene is how many sequences go at a time.
const talksOfScene = 100

// run compares, and fails the test for what is not known.
func (k *contest) run() {
	n := sequences(k.T)
	for k.talks < n && !k.Failed() {
		k.scene()
	}
	for _, l := range append(k.list, meant("", collateral)) {
		k.Logf("%6d sequences differ: %s", k.seen[l.why], l.why)
	}
	k.Logf("seed %d: %d sequences, %d without a difference; %d packets are the same", k.seed, k.talks, k.equal, k.steps)
	if k.equal < k.talks/2 {
		k.Errorf("seed %d: only %d of %d sequences have no difference: what is known explains too much", k.seed, k.equal, k.talks)
	}
}

// sceneTime is less than a fragment waits. A scene takes some ten milliseconds, unless the machine stands still.
const sceneTime = 20 * time.Second

// scene compares one scene.
func (k *contest) scene() {
	began := time.Now()
	c := k.w.newScene(talksOfScene)
	a, b := k.play(c, k.us), k.play(c, k.them)
	x, y := k.us.table(), k.them.table()
	defer k.clear(a, b)
	if took := time.Since(began); took > sceneTime {
		k.Logf("seed %d: a scene has taken %v: it is not judged, others take its place", k.seed, took)
		return
	}
	var differences []difference
	for _, t := range c.talks {
		k.talks++
		cause, at := k.compare(t, a, b)
		if cause == "" {
			at = len(t.steps)
			if cause = k.compareTables(t, tableOf(t, x, a), tableOf(t, y, b)); cause != "" {
				cause += k.notes(t, at)
			}
		}
		k.steps += at
		if cause == "" {
			k.equal++
			continue
		}
		differences = append(differences, difference{t, cause, at})
	}
	k.explain(differences, a, b)
}

// clear removes what a scene has left. Identifiers of datagrams come again, so nobody may wait for the
// rest of one.
func (k *contest) clear(a, b *ends) {
	k.us.exchange(a.rest)
	k.us.flush()
	k.them.exchange(b.rest)
	k.them.flush()
}

// A difference is the first one of a talk: what, and at which of its steps.
type difference struct {
	talk  *talk
	cause string
	at    int
}

// collateral is why a talk may differ whose addresses are those of another one that does.
const collateral = "another connection with the same port, whose translation clashed, differs"

// otherPort is a difference after which the ports of a class clash otherwise.
const otherPort = "a connection that takes the place of one that is over has its translation; OVS 3.1 gives it another port if only the destination is translated"

// touches says which talks may meet in a translation: those with the same port.
func (t *talk) touches() string {
	return fmt.Sprint(t.class, t.proto, t.client.Port(), t.server)
}

// explain looks the differences of a scene up, and fails if one is not known.
func (k *contest) explain(list []difference, a, b *ends) {
	touched := map[string]bool{}
	var unknown []difference
	for _, d := range list {
		i := slices.IndexFunc(k.list, func(l known) bool { return l.cause.MatchString(d.cause) })
		if i < 0 {
			unknown = append(unknown, d)
			continue
		}
		k.seen[k.list[i].why]++
		touched[d.talk.touches()] = true
		if k.list[i].why == otherPort {
			touched[fmt.Sprint(d.talk.class)] = true
		}
	}
	for _, d := range unknown {
		t := d.talk
		if touched[t.touches()] || touched[fmt.Sprint(t.class)] && strings.HasPrefix(d.cause, "tcp none") {
			k.seen[collateral]++
			continue
		}
		k.Errorf("seed %d: scene %d, class %d, %v to %v, step %d: %s\n%s", k.seed, k.talks/talksOfScene, t.class, t.client, t.server, d.at, d.cause, strings.Join(t.story(a, b), "\n"))
	}
}

// play sends a scene through a switch.
func (k *contest) play(c *scene, r rival) *ends {
	e := newEnds()
	for _, round := range c.rounds {
		var list []framed
		for _, s := range round {
			if o, ok := r.(*ours); ok {
				s.before, s.against = o.before(s.talk)
			}
			for _, p := range e.packets(s) {
				list = append(list, framed{s.side, p})
			}
		}
		for _, f := range r.exchange(list) {
			ip, state, then, mark := r.read(f)
			if err := e.came(c, ip, state, then, mark); err != nil {
				k.Fatalf("seed %d: %v", k.seed, err)
			}
		}
	}
	return e
}

// compare returns the first difference of a talk, and at which step it is.
func (k *contest) compare(t *talk, a, b *ends) (cause string, at int) {
	for i := range t.steps {
		s := &t.steps[i]
		x, y := a.out[s.id], b.out[s.id]
		for _, o := range []*outcome{x, y} {
			if o != nil && k.oneZone {
				o.state, o.then, o.mark = o.state&^natBits, 0, 0
			}
		}
		if x.String() != y.String() || x != nil && x.bad != "" {
			return s.cause(x, y) + k.notes(t, i), i
		}
	}
	return "", 0
}

// notes says what of the steps of a talk before one may still have effects in Linux.
func (k *contest) notes(t *talk, at int) (notes string) {
	if !k.oneZone || t.proto != conntrack.ProtoTCP {
		return ""
	}
	if t.class == classBoth || t.class == classTwo {
		notes = ", two zones"
	}
	for i := range t.steps[:at] {
		s := &t.steps[i]
		if s.kind == stepData && s.flags&(syn|ack) == syn|ack && strings.HasPrefix(s.before, "SYN_SENT") && i+1 < len(t.steps) && strings.HasPrefix(t.steps[i+1].before, "SYN_SENT") {
			notes += ", behind a false answer" // else it would be SYN_RECV
		}
		switch {
		case s.kind == stepError || s.before == "none" || s.before == "gone" || s.side == serverSide != s.against:
		case s.flags&(syn|ack|rst|fin) == syn && s.before != "SYN_SENT unreplied":
			notes = ", behind a SYN"
		}
		if s.kind == stepData && s.flags&rst != 0 && !strings.Contains(notes, "RST") {
			notes += ", behind a RST"
		}
	}
	return notes
}

// story tells what became of a talk with two switches.
func (t *talk) story(a, b *ends) (list []string) {
	for i := range t.steps {
		s := &t.steps[i]
		x, y := a.out[s.id].String(), b.out[s.id].String()
		line := fmt.Sprintf("%-40s %s", s, x)
		if x != y {
			line += " | " + y
		}
		list = append(list, line)
	}
	return list
}

// String shows an outcome.
func (o *outcome) String() string {
	switch {
	case o == nil:
		return "nothing"
	case o.bad != "":
		return "BAD: " + o.bad
	}
	return fmt.Sprintf("%s; %s, then %s, mark %#x", o.came, conntrack.State(o.state), conntrack.State(o.then), o.mark)
}

// verdict is what an outcome says of the packet's connection.
func (o *outcome) verdict() string {
	switch {
	case o == nil:
		return "nothing"
	case o.came == "":
		return "part"
	}
	return conntrack.State(o.state &^ (natBits | byte(conntrack.StateTracked))).String()
}

// cause names a difference: the protocol, the state before, the packet, and what became of it
// here | there.
func (s *step) cause(a, b *outcome) string {
	arrow := "><"
	if s.against {
		arrow = "<>"
	}
	what := fmt.Sprintf("%s %s %c%s: %s | %s", protoNames[s.talk.proto], s.before, arrow[s.side], s.packetName(), a.verdict(), b.verdict())
	if a == nil || b == nil || a.verdict() != b.verdict() {
		return what
	}
	switch {
	case a.bad != "" || b.bad != "":
		what += fmt.Sprintf(", bad %q | %q", a.bad, b.bad)
	case a.came != b.came:
		what += ", contents"
	case a.state != b.state:
		what += fmt.Sprintf(", state %s | %s", conntrack.State(a.state), conntrack.State(b.state))
	case a.then != b.then:
		what += fmt.Sprintf(", then %s | %s", conntrack.State(a.then), conntrack.State(b.then))
	default:
		what += ", mark"
	}
	return what
}

// protoNames names protocols.
var protoNames = map[byte]string{conntrack.ProtoTCP: "tcp", conntrack.ProtoUDP: "udp", conntrack.ProtoICMP: "icmp"}

// packetName says what a step is, for causes.
func (s *step) packetName() (name string) {
	switch {
	case s.kind == stepError:
		return "error"
	case !s.whole():
		return "incomplete"
	case !s.ordered():
		return "disordered"
	case s.parts != nil:
		return "fragments"
	case s.talk.proto != conntrack.ProtoTCP:
		return "packet"
	}
	for i, c := range "FSR A" {
		if s.flags>>i&1 != 0 && c != ' ' {
			name += string(c)
		}
	}
	return name
}

// before is the state of a talk's connection, and whether a packet of the server began it. None has
// "none", or "gone" if there was one.
func (o *ours) before(t *talk) (state string, against bool) {
	tuple := conntrack.Tuple{Src: conntrack.AddrOf(t.client.Addr()), Dst: conntrack.AddrOf(t.server.Addr()), SrcPort: t.client.Port(), DstPort: t.server.Port(), Proto: t.proto}
	if t.proto == conntrack.ProtoICMP {
		tuple.DstPort = 8 << 8
	}
	c, ok := o.r.s.engine.crossing.table.Lookup(uint16(t.class), tuple, 1e9)
	t.known = t.known || ok
	switch {
	case !ok && t.known:
		return "gone", false
	case !ok:
		return "none", false
	case c.SeenReply || c.State == "UNREPLIED":
		return c.State, c.Original != tuple
	}
	return c.State + " unreplied", c.Original != tuple
}

// tableOf are the connections of a talk, in terms that do not depend on a switch's choices.
func tableOf(t *talk, all []conn, e *ends) (list []conn) {
	for _, c := range all {
		if c.proto != t.proto || c.orig.src != t.client && c.orig.dst != t.client {
			continue
		}
		if t.translates(c.reply.reply()) {
			c.reply = t.expectedFar().reply()
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b conn) int { return a.zone - b.zone })
	return list
}

// compareTables returns the first difference between two switches' connections of a talk.
func (k *contest) compareTables(t *talk, a, b []conn) string {
	if k.oneZone && (t.class == classBoth || t.class == classTwo) {
		return ""
	}
	for i := range min(len(a), len(b)) { // another port has consequences, so it comes first
		if x, y := a[i], b[i]; x.zone == y.zone && x.reply != y.reply {
			return fmt.Sprintf("%s: connection of class %d, replies %v | %v", protoNames[t.proto], t.class, x.reply, y.reply)
		}
	}
	if len(a) != len(b) {
		return fmt.Sprintf("%s: connections %v | %v", protoNames[t.proto], a, b)
	}
	for i := range a {
		x, y := a[i], b[i]
		state := "state " + x.state + " | " + y.state
		want := k.sameState[x.state]
		if t.proto != conntrack.ProtoTCP || x.state == y.state || want != nil && want.MatchString(y.state) {
			state = ""
		}
		x.state, y.state = "", ""
		if k.oneZone {
			x.zone, x.mark, x.label = 0, 0, 0
		}
		switch {
		case x != y:
			return fmt.Sprintf("%s: connection %v | %v", protoNames[t.proto], x, y)
		case state != "":
			return "tcp: " + state
		}
	}
	return ""
}

// String shows a connection.
func (c conn) String() string {
	return fmt.Sprintf("zone %d %v, replies %v, %s mark %#x label %#x", c.zone, c.orig, c.reply, c.state, c.mark, c.label)
}
