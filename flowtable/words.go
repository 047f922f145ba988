package flowtable

// Words of a Key, and what is where in them. Bits are counted from the least
// significant. What a packet does not have is zero: ARP and ND share words with
// IP and L4, since no packet has both, and every field has as its prerequisite
// the bits that say what the packet is.
const (
	// WordIn: in port (32..63), VLAN TCI with bit 12 set if there is a tag
	// (16..31), Ethernet type behind the tag (0..15).
	WordIn = iota
	// WordDst: Ethernet destination (16..63), TCP flags (0..11).
	WordDst
	// WordSrc: Ethernet source (16..63), IP protocol (8..15), TTL (0..7).
	WordSrc
	// WordIP4: IPv4 or ARP sender address (32..63), IPv4 or ARP target
	// address (0..31); IPv6 flow label (0..19).
	WordIP4
	// WordL4: source port, ICMP type or ARP operation (48..63), destination
	// port or ICMP code (32..47), DSCP and ECN (24..31), fragment bits
	// (16..17: is a fragment, is a later one), zero (0..15). In a walk and in
	// ops these last are the identifier of an ICMP query.
	WordL4
	// WordTunnel: network identifier (40..63), tunnel flags (32..39), option
	// or key data (0..31).
	WordTunnel
	// NarrowWords is how many words a narrow key has.
	NarrowWords = iota
)

const (
	// WordIP6Src and the next: IPv6 source, high half first.
	WordIP6Src = iota + NarrowWords
	// WordIP6SrcLow is its low half.
	WordIP6SrcLow
	// WordIP6Dst and the next: IPv6 destination, high half first.
	WordIP6Dst
	// WordIP6DstLow is its low half.
	WordIP6DstLow
	// WordSHA is the ARP sender or ND source link-layer address (0..47).
	WordSHA
	// WordTHA is the ARP target or ND target link-layer address (0..47).
	WordTHA
	// WordND and the next: ND target address.
	WordND
	// WordNDLow is its low half.
	WordNDLow
	// KeyWords is how many words a key has.
	KeyWords
)

// Words of a Context beyond the key.
const (
	// WordDatapath: logical datapath, OVN's metadata.
	WordDatapath = iota + KeyWords
	// WordPorts: logical in port (32..63), logical out port (0..31).
	WordPorts
	// WordFlags: flags, OVN's reg10 (32..63), packet mark (0..31).
	WordFlags
	// WordReg0 to WordReg8: registers in pairs, the even one in 32..63.
	WordReg0
	WordReg2
	WordReg4
	WordReg6
	WordReg8
	// WordZones: DNAT zone, reg11 (48..63), SNAT zone, reg12 (32..47), port's
	// zone and encapsulation, reg13 (0..31).
	WordZones
	// WordCT: connection state (32..63), connection mark (0..31).
	WordCT
	// WordLabel and the next: connection label, high half first.
	WordLabel
	WordLabelLow
	// WordCTL4: original source port (48..63), destination port (32..47),
	// protocol (0..7).
	WordCTL4
	// WordCTIP4: original IPv4 source (32..63) and destination (0..31).
	WordCTIP4
	// WordCTIP6Src and the next three: original IPv6 addresses. Before a
	// connection is looked up, and where rules set them, they are the addresses
	// of a tunnel's outer header; see WordTunSrc.
	WordCTIP6Src
	WordCTIP6SrcLow
	WordCTIP6Dst
	WordCTIP6DstLow
	// ContextWords is how many words a context has.
	ContextWords
)

// Words of the outer addresses of a tunnel by which a packet came or goes, source and
// destination in two words each: IPv6, or IPv4 in the low 32 bits. They share those of
// a connection's IPv6 addresses, for there are no others: looking up a connection
// overwrites them. What rules set is for the outputs behind (OpSet), and what nobody has set
// is that of the tunnel by which the packet came (Walker.Came).
const (
	WordTunSrc = WordCTIP6Src
	WordTunDst = WordCTIP6Dst
)

// A Key is what is known of a packet when it arrives.
type Key [KeyWords]uint64

// A Context is all that rules match and change.
type Context [ContextWords]uint64

// TagPresent is bit 12 of a TCI, which says that there is a tag (as in OVS).
const TagPresent = 1 << 12
