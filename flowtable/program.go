package flowtable

// Codes of Op.
const (
	OpSet      = iota + 1 // Word := Word &^ Mask | Value
	OpPushVLAN            // the frame gets a tag of Ethernet type Arg; what is in it is set by an OpSet of WordIn
	OpPopVLAN             // the outermost tag goes
	OpDecTTL              // TTL less one, checksum put right; walks make an OpSet of it, since they depend on the TTL
	OpOutput              // to port Arg
	OpFlood               // to flood list Arg; Value is that of ActFlood's Dst
	OpSave                // what follows works on a copy; OpRestore goes back to what is saved
	OpRestore             //
	OpMeter               // meter Arg; beyond its rate go on behind the OpRestore of the innermost OpSave before, or end
	OpLearn               // FDB Arg learns the Ethernet address in Mask behind the port in Value
	OpCT                  // counts for Value, which Arg says what it is: CountOriginal and its kin; its bits 29 and 30 are 0; nothing is done to the frame
	OpInner               // as OpSet, to the packet that an ICMP error quotes
	OpReply               // the frame becomes a reply to what it is: of kind Word, with MTU Value, turned round if Mask is 1; beyond the rate of meter Arg, or if it may not be, go on as OpMeter does
)

// What an OpCT counts for.
const (
	CountOriginal = iota // connection, in its first packet's direction
	CountReply           // connection, in the other one
	CountClient          // client whose backend is remembered
)

// An Op is one step of a composed program. It changes words of the key, which
// is to say bytes of the frame.
type Op struct {
	Code        uint8
	Word        uint8
	Arg         uint32
	Value, Mask uint64
}

// A Cell is the index of a guard cell.
type Cell uint32

// A Guard says that a cell must have a value.
type Guard struct {
	Cell Cell
	Want uint32
}

// A Composed is what a walk has found. It lives in the Walker until the next
// walk.
type Composed struct {
	Mask   Key      // bits of the key on which it depends
	Ops    []Op     // empty: drop
	Drop   uint32   // why, if nothing was output: Arg of ActDrop, or a Drop code
	Guards []Guard  // all must hold
	Rules  []uint32 // handles of the rules that matched, in order, for their counters

	Tag uint64 // of whoever keeps the program; a walk leaves it 0

	// LenMin and LenMax are the lengths of frames, in bytes, that the program
	// is right for; the length is not in the Key. They are 0 and the highest
	// number unless ActLarger was met.
	LenMin, LenMax uint32
	// Path is for StillGood. The first two of Guards are those of the path.
	Path    PathID
	Version uint64 // in which the walk saw the tables
	// Cacheable is false if a transaction took effect during the walk: the
	// program is right for this packet, and is not kept.
	Cacheable bool
}

// Reasons for a drop that the pipeline itself has.
const (
	DropExplicit  = 0 // a rule says drop
	DropNoRule    = 1<<16 + iota
	DropTTL       // ActDecTTL at 0 or 1
	DropSteps     // more than StepsMax tables
	DropDepth     // deeper than DepthMax
	DropNoOutput  // rules matched, and none delivered it
	DropNoPort    // the out port is 0
	DropNoEntry   // nothing says where packets of the in port begin
	DropOps       // more than OpsMax ops
	DropNoBucket  // a select group has no bucket with a weight
	DropNoReply   // ActReply about a packet that must not be answered
	DropReplyRate // beyond the rate of an ActReply's meter
)
