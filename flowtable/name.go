package flowtable

// bridgeDatapath marks datapaths of bridges: logical ones of OVN have 24 bits.
const bridgeDatapath = 1 << 63

// DatapathOf is the datapath of the bridge of a name: a digest (FNV-1a, 64
// bits), so that whoever knows the name knows the datapath.
func DatapathOf(bridge string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(bridge) {
		h = (h ^ uint64(bridge[i])) * 1099511628211
	}
	return h | bridgeDatapath
}
