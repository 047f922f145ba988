package flows

import (
	"millrace/control/logical"
	"millrace/flowtable"
)

// places returns where each field of the language lies in a context. Those that
// only ICMP errors have lie nowhere: their width is 0.
func places() [logical.NumFields]flowtable.Field {
	names := [logical.NumFields]string{
		logical.FieldICMP4Type: "icmp.type", logical.FieldICMP6Type: "icmp.type",
		logical.FieldICMP4Code: "icmp.code", logical.FieldICMP6Code: "icmp.code",
		logical.FieldTCPSrc: "tp.src", logical.FieldUDPSrc: "tp.src", logical.FieldSCTPSrc: "tp.src",
		logical.FieldTCPDst: "tp.dst", logical.FieldUDPDst: "tp.dst", logical.FieldSCTPDst: "tp.dst",
	}
	byName := map[string]flowtable.Field{}
	for _, f := range flowtable.Fields() {
		byName[f.Name] = f
	}
	var out [logical.NumFields]flowtable.Field
	for i := range out {
		name := names[i]
		if name == "" {
			name = logical.Field(i).String()
		}
		out[i] = byName[name]
	}
	return out
}

// bitsOf returns bits of a field of 64 bits or fewer.
func bitsOf(f flowtable.Field, low, bits int) flowtable.Field {
	f.Shift += uint8(low)
	if int(f.Width) != bits {
		f.Name = ""
	}
	f.Width = uint8(bits)
	return f
}

// whole returns the field that bits low to low+bits-1 of f are, if they are one:
// bits of one word, or all 128.
func whole(f flowtable.Field, low, bits int) (flowtable.Field, bool) {
	switch {
	case f.Width == 0:
		return f, false
	case f.Width != 128:
		return bitsOf(f, low, bits), true
	case bits == 128:
		return f, true
	case low >= 64:
		return flowtable.Field{Word: f.Word, Shift: uint8(low - 64), Width: uint8(bits)}, true
	case low+bits <= 64:
		return flowtable.Field{Word: f.Word + 1, Shift: uint8(low), Width: uint8(bits)}, true
	}
	return f, false
}

// halves cuts bits low to low+bits-1 of f where they cross from one word into
// the next, lowest part first.
func halves(f flowtable.Field, low, bits int) []flowtable.Field {
	if w, ok := whole(f, low, bits); ok && w.Width != 128 {
		return []flowtable.Field{w}
	}
	under := 64 - low
	return []flowtable.Field{
		{Word: f.Word + 1, Shift: uint8(low), Width: uint8(under)},
		{Word: f.Word, Width: uint8(bits - under)},
	}
}
