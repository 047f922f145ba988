package flowtable

import "sync/atomic"

// addWritten adds to k the bits of the key that actions write.
func addWritten(k *Key, acts []Action) {
	for i := range acts {
		a := &acts[i]
		switch a.Code {
		case ActSet, ActMove, ActGetFDB, ActLookupFDB, ActLarger, ActSelect, ActCTOriginal, ActAffinity, ActHairpin, ActHairpinReply:
			addField(k, a.Dst)
		case ActCT:
			if a.Arg&CTTranslate != 0 {
				addTranslated(k)
			}
		case ActExchange:
			addField(k, a.Dst)
			addField(k, a.Src)
		case ActPushVLAN, ActPopVLAN:
			k[WordIn] |= tagBits
		case ActDecTTL:
			k[WordSrc] |= 0xff
		case ActReply:
			addReplied(k)
		}
		addWritten(k, a.Nested)
	}
}

// addTranslated adds what translation may write.
func addTranslated(k *Key) {
	for _, word := range [...]uint8{WordIP4, WordIP6Src, WordIP6SrcLow, WordIP6Dst, WordIP6DstLow} {
		k[word] = ^uint64(0)
	}
	k[WordL4] |= 0xffffffff<<32 | 0xffff
}

// addField adds the bits of a field.
func addField(k *Key, f Field) {
	if f.Width == 0 || f.Word >= KeyWords {
		return
	}
	high, low := f.Bits()
	k[f.Word] |= high
	if low != 0 && f.Word+1 < KeyWords {
		k[f.Word+1] |= low
	}
}

// noteWritten adds what actions write to what the rules of a rule set do. Paths
// that counted on less are ended.
func (t *Tables) noteWritten(rs uint32, acts []Action) bool {
	var k Key
	if addWritten(&k, acts); k == (Key{}) {
		return true
	}
	b := uint32(t.mem.words[rs+rulesetWritten])
	if b == 0 {
		if b = t.mem.allocZero(memDatapaths, KeyWords); b == 0 {
			return false
		}
		t.mem.store(rs+rulesetWritten, uint64(b))
	}
	for w, bits := range k {
		if old := t.mem.words[b+uint32(w)]; bits&^old != 0 {
			t.mem.store(b+uint32(w), old|bits)
			t.touchAll(rs)
		}
	}
	return true
}

// addSelectWritten adds what the actions of select groups write.
func (t *Tables) addSelectWritten(k *Key) {
	for w := range k {
		k[w] |= atomic.LoadUint64(&t.selectWritten[w])
	}
}
