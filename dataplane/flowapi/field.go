package flowapi

import (
	"fmt"
	"sync"

	"millrace/dataplane/api"
	"millrace/flowtable"
)

// PackField returns a field as a FieldRef of the API. It has no name there.
func PackField(f flowtable.Field) uint32 {
	return uint32(f.Word)<<16 | uint32(f.Shift)<<8 | uint32(f.Width)
}

// UnpackField undoes PackField. Zero is no field. Any run of bits that lies
// inside one of flowtable.Fields is one.
func UnpackField(v uint32) (flowtable.Field, error) {
	f := flowtable.Field{Word: uint8(v >> 16), Shift: uint8(v >> 8), Width: uint8(v)}
	if v == 0 {
		return f, nil
	}
	if v>>24 != 0 || !exists(f) {
		return f, fmt.Errorf("no field has %d bits at word %d, shift %d", uint8(v), v>>16, uint8(v>>8))
	}
	return f, nil
}

// A layout is where fields are.
type layout struct {
	runs [flowtable.ContextWords][]run // in each word
	wide [flowtable.ContextWords]bool  // words that begin a field of 128 bits
}

// A run is bits of a word: lo to hi-1.
type run struct{ lo, hi uint8 }

// ours is the layout of flowtable.Fields.
var ours = sync.OnceValue(func() *layout {
	var l layout
	for _, f := range flowtable.Fields() {
		if f.Width == 128 {
			l.wide[f.Word] = true
			l.runs[f.Word] = append(l.runs[f.Word], run{0, 64})
			l.runs[f.Word+1] = append(l.runs[f.Word+1], run{0, 64})
			continue
		}
		l.runs[f.Word] = append(l.runs[f.Word], run{f.Shift, f.Shift + f.Width})
	}
	return &l
})

// exists reports whether the bits of f are those of a field, or some of them.
func exists(f flowtable.Field) bool {
	if int(f.Word) >= flowtable.ContextWords || f.Width == 0 {
		return false
	}
	if f.Width == 128 {
		return f.Shift == 0 && ours().wide[f.Word]
	}
	for _, r := range ours().runs[f.Word] {
		if r.lo <= f.Shift && int(f.Shift)+int(f.Width) <= int(r.hi) {
			return true
		}
	}
	return false
}

// ToLayout returns the fields as GetFlowTable tells them.
func ToLayout() []*api.FlowField {
	var out []*api.FlowField
	for _, f := range flowtable.Fields() {
		out = append(out, &api.FlowField{Name: f.Name, Word: uint32(f.Word), Shift: uint32(f.Shift), Width: uint32(f.Width)})
	}
	return out
}

// CheckLayout says which field a dataplane does not have, or has somewhere else
// than we do. A client must not send it words then.
func CheckLayout(theirs []*api.FlowField) error {
	known := make(map[string]*api.FlowField, len(theirs))
	for _, f := range theirs {
		known[f.GetName()] = f
	}
	for _, f := range flowtable.Fields() {
		t := known[f.Name]
		switch {
		case t == nil:
			return fmt.Errorf("the dataplane has no field %s: restart it with the millrace of this release", f.Name)
		case t.GetWord() != uint32(f.Word) || t.GetShift() != uint32(f.Shift) || t.GetWidth() != uint32(f.Width):
			return fmt.Errorf("the dataplane has field %s somewhere else: restart it with the millrace of this release", f.Name)
		}
	}
	return nil
}
