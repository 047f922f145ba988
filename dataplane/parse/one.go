package parse

import "millrace/flowtable"

// One returns the key of a frame of length bytes that came in by port and
// starts with head.
func One(head []byte, length, port uint32) flowtable.Key {
	k, _ := Inspect(head, length, port)
	return k
}

// Inspect is One, and says what kept it from reading more.
func Inspect(head []byte, length, port uint32) (flowtable.Key, Flaw) {
	var k flowtable.Key
	var l Layout
	l.Find(head, length)
	l.fill(&k, head, port)
	return k, l.Flaw
}

// InspectAt is Inspect at a level. wide says whether Narrow calls such a frame
// wide, so that its key is looked up whole.
func InspectAt(level Level, head []byte, length, port uint32) (k flowtable.Key, wide bool, flaw Flaw) {
	if level == L2 {
		k, flaw = layer2(head, length, port)
		return k, false, flaw
	}
	var l Layout
	l.Find(head, length)
	l.fill(&k, head, port)
	return k, l.L3 != 0 && l.Type != typeIPv4, l.Flaw
}
