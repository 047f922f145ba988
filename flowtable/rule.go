package flowtable

// Bounds of a pipeline.
const (
	TablesMax   = 256   // tables of a datapath
	PriorityMax = 65535 // of a rule
	DepthMax    = 64    // clones in clones, and walks through other datapaths
	StepsMax    = 4096  // tables that one packet visits in all
)

// A RuleID is a digest of a rule's content. Zero is none.
type RuleID uint64

// Who makes what a number names chooses the number.
type (
	// A SetID names a set.
	SetID uint32
	// A GroupID names a group of datapaths; zero is none.
	GroupID uint32
	// A SelectID names a select group.
	SelectID uint32
	// A MeterID names a meter.
	MeterID uint32
	// A FloodID names a flood list.
	FloodID uint32
)

// A Rule says what becomes of packets that match it.
type Rule struct {
	ID       RuleID
	Table    uint8
	Priority uint16
	// Datapath is the one datapath of the rule. If Group is not zero, the rule
	// is for all datapaths of that group instead.
	Datapath uint64
	Group    GroupID
	Match    []Masked // of different words, in the order of words; all must agree
	Preds    []Pred   // all must hold
	Actions  []Action
	Cookie   uint64 // for whoever made the rule
}

// Masked is what some bits of a word must be.
type Masked struct {
	Word        uint8
	Value, Mask uint64 // Value has no bits outside Mask
}

// Kinds of Pred.
const (
	InSet    = iota + 1 // the field's value is a member of Set
	NotInSet            // it is not
	InRange             // Low <= the field's value <= High, for fields of one word
	NotEqual            // the field differs from Low (and LowLow) in some bit of Mask
)

// A Pred is what masked words cannot say.
type Pred struct {
	Kind          uint8
	Field         Field
	Set           SetID
	Low, High     uint64 // values, not shifted; Low is the high half for fields of 128 bits
	LowLow        uint64
	Mask, MaskLow uint64 // for NotEqual: bits of the value that are compared
}

// A Member is one member of a set: the values that agree with it in the bits
// of the mask. High halves are zero for fields of up to 64 bits.
type Member struct {
	High, Low         uint64
	MaskHigh, MaskLow uint64
}

// FloodPort is the bit that makes the number of a port that of a flood list: all
// ports of the list but the in port. So an out port can be "all", and be decided on
// in another table than where it is delivered to. Ports have no numbers with it.
const FloodPort = 1 << 31

// Codes of Action. What a table, an entry or another datapath changes stays
// changed for actions that follow ActNext; copies (ActClone, ActDatapath)
// change nothing for who made them. Bit 12 of the TCI (TagPresent) is left as it
// is by all but ActPushVLAN and ActPopVLAN. The in port, the Ethernet type, the
// IP protocol, fragment bits, TCP flags and the datapath cannot be written.
const (
	ActSet          = iota + 1 // Dst := Value (ValueLow)
	ActMove                    // Dst := Src; widths are equal
	ActExchange                // Dst <-> Src
	ActNext                    // look on in Table of the same datapath; what follows runs afterwards
	ActOutput                  // deliver to port Arg, or, if Arg is zero, to the port whose number Dst holds; see FloodPort
	ActFlood                   // deliver to all ports of flood list Arg but the in port; with Dst, they are told its value
	ActClone                   // Nested, on a copy
	ActDrop                    // the rest of the list is not done; if nothing is delivered at all, the reason is Arg
	ActPushVLAN                // the packet has a tag: WordIn's TCI; Arg is the tag's Ethernet type
	ActPopVLAN                 // it has none, as far as rules see: what a second tag says is not in the Key
	ActDecTTL                  // TTL less one; at 0 or 1 this copy of the packet ends
	ActSelect                  // choose from group Arg by hash; its bucket's actions run, or Dst := the bucket's id and Table is next
	ActMeter                   // meter Arg; beyond its rate the packet is dropped
	ActGetFDB                  // Dst := port behind Src (Ethernet address) in FDB Arg, zero if unknown
	ActLookupFDB               // Dst := 1 if FDB Arg has Src behind the port in Src2, else 0
	ActPutFDB                  // FDB Arg learns Src behind the port in Src2
	ActLarger                  // Dst := 1 if the frame is longer than Arg bytes, else 0
	ActDatapath                // a copy goes on in Table of datapath Value, all metadata cleared, in port Arg
	ActCT                      // through connection tracking; see CTResume and its kin
	ActCTClear                 // connection state, mark, label and original addresses are zero
	ActCTOriginal              // Dst := Src, a field of the connection's original direction, if the packet is of an established one; else 0
	ActNAT                     // only in ActCT: a translation that a new connection gets; see NATSource and its kin
	ActReply                   // Nested, on a packet that is made in reply: Table says which (ReplyICMP4 and its kin), Value an MTU; meter Arg bounds how many
	ActAffinity                // Dst := 1 if bridge Arg remembers the client's backend, reg4 or xxreg1 := its address, reg2[0..15] := its port; else Dst := 0
	ActStick                   // bridge Arg remembers for Value seconds which backend the client was given; Nested are two ActEndpoint: VIP, and backend
	ActEndpoint                // only in ActStick: address Value and ValueLow (Table: NATSix), port Arg (0..15), protocol Arg (16..23)
	ActHairpin                 // Dst := 1 if a load balancer has sent the packet's source to itself, else 0
	ActHairpinReply            // Dst := 1 if the packet answers one that a load balancer had sent to its source, and whose source zone Arg translates, else 0
)

// An Action is one step. Which fields it uses depends on Code.
type Action struct {
	Code            uint8
	Table           uint8
	Dst, Src, Src2  Field
	Arg             uint32
	Value, ValueLow uint64 // of Dst, not shifted; Value is the high half for fields of 128 bits
	Nested          []Action
}

// A Bucket is one choice of a select group.
type Bucket struct {
	ID      uint32
	Weight  uint16
	Actions []Action
}

// A Select is a group of which one bucket is taken by a hash over Fields.
type Select struct {
	ID      SelectID
	Fields  []Field
	Buckets []Bucket
}

// A Meter is a token bucket.
type Meter struct {
	ID      MeterID
	Packets bool   // counts packets; otherwise bits
	Rate    uint64 // kilobits or packets a second
	Burst   uint64 // kilobits or packets
}
