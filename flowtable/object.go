package flowtable

import (
	"errors"
	"fmt"
)

// Kinds of objects.
const (
	objSelect = iota + 1
	objMeter
	objFlood
	objEntry
)

// kindNames are what objects are called.
var kindNames = [...]string{"", "select", "meter", "flood list", "entry"}

// An Entry says where packets of a port begin: in which table of which
// datapath, by which logical port, and with which metadata.
type Entry struct {
	Port     uint32 // in port of the key
	Datapath uint64
	Inport   uint32
	Table    uint8
	Words    []Masked // of metadata words, in order; other bits are zero
}

// Words of an object: a select, a meter, a flood list, an entry.
const (
	objectID    = iota // id (0..31), kind (32..63)
	objectFirst        // latest state (0..31); for the writer, that which is in force (32..63)
	objectUses         // rules and buckets that refer to it
	objectWords
)

// Words of a version of an object.
const (
	stateAdded  = iota // version in which it came
	stateGone          // version in which it went
	stateNext          // older state (0..31); for the writer, the newer one (32..63)
	stateOwner         // object (0..31), size in words (32..63)
	stateData          // by kind, see below
	stateHeader = stateData
)

// What versions of objects hold:
//
//	select      weights and sizes: see encodeSelect
//	meter       packets (1) or bits (0); rate; burst
//	flood list  ports, each a word
//	entry       datapath; in port (0..31) and table (32..39); word and value of
//	            metadata by turns

// objectTag is what an object is found by.
func (t *Tables) objectTag(key uint64) uint32 { return tagOf(t.seed.mix(t.seed.start, key)) }

// findObject returns an object, or 0.
func (t *Tables) findObject(kind uint64, id uint32) uint32 {
	key := uint64(id) | kind<<32
	p := t.objects.search(t.mem, t.objectTag(key))
	for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
		if t.mem.words[ref+objectID] == key {
			return ref
		}
	}
	return 0
}

// stateAt returns the state of an object in version v, or 0.
func (t *Tables) stateAt(obj uint32, v uint64) uint32 {
	for s := uint32(t.mem.load(obj + objectFirst)); s != 0; s = uint32(t.mem.load(s + stateNext)) {
		if visible(v, t.mem.load(s+stateAdded), t.mem.load(s+stateGone)) {
			return s
		}
	}
	return 0
}

// data returns what a state holds.
func (t *Tables) data(s uint32) []uint64 {
	return t.mem.words[s+stateData : uint64(s)+t.mem.words[s+stateOwner]>>32]
}

// current returns the state of an object that no transaction has ended, or 0.
func (t *Tables) current(obj uint32) uint32 { return uint32(t.mem.words[obj+objectFirst] >> 32) }

// setLow changes the low half of a word, which readers read.
func (t *Tables) setLow(ref uint32, v uint32) {
	t.mem.store(ref, t.mem.words[ref]&^0xffffffff|uint64(v))
}

// setHigh changes the high half of a word, which is the writer's.
func (t *Tables) setHigh(ref uint32, v uint32) {
	t.mem.store(ref, t.mem.words[ref]&0xffffffff|uint64(v)<<32)
}

// newObject makes an object without states, or returns 0.
func (t *Tables) newObject(kind uint64, id uint32) uint32 {
	obj := t.mem.allocZero(memObjects, objectWords)
	if obj == 0 {
		return 0
	}
	t.mem.words[obj+objectID] = uint64(id) | kind<<32
	if !t.objects.insert(t, memObjects, t.objectTag(t.mem.words[obj+objectID]), obj) {
		t.mem.release(memObjects, obj, objectWords)
		return 0
	}
	return obj
}

// dropObject takes out an object without states.
func (t *Tables) dropObject(obj uint32) {
	t.objects.remove(t.mem, t.objectTag(t.mem.words[obj+objectID]), obj)
	t.retire(memObjects, obj, objectWords)
}

// addState gives an object, made if need be, a new state, or returns 0.
func (t *Tables) addState(kind uint64, id uint32, data []uint64, version uint64) uint32 {
	obj := t.findObject(kind, id)
	if obj == 0 {
		if obj = t.newObject(kind, id); obj == 0 {
			return 0
		}
	}
	w := t.mem.words
	s, first := t.mem.alloc(memObjects, stateHeader+len(data)), uint32(w[obj+objectFirst])
	if s == 0 {
		if first == 0 {
			t.dropObject(obj)
		}
		return 0
	}
	copy(w[s+stateData:], data)
	w[s+stateOwner] = uint64(obj) | uint64(stateHeader+len(data))<<32
	t.mem.store(s+stateAdded, version)
	t.mem.store(s+stateGone, never)
	t.mem.store(s+stateNext, uint64(first))
	if first != 0 {
		t.setHigh(first+stateNext, s)
	}
	t.mem.store(obj+objectFirst, uint64(s)|uint64(s)<<32)
	return s
}

// endState ends a state with a version.
func (t *Tables) endState(s uint32, version uint64) {
	t.mem.store(s+stateGone, version)
	if obj := uint32(t.mem.words[s+stateOwner]); t.current(obj) == s {
		t.setHigh(obj+objectFirst, 0)
	}
}

// unlinkObject takes an ended state out, and its object if it was the last.
func (t *Tables) unlinkObject(s uint32) {
	w := t.mem.words
	obj, older, newer := uint32(w[s+stateOwner]), uint32(w[s+stateNext]), uint32(w[s+stateNext]>>32)
	if newer == 0 {
		t.setLow(obj+objectFirst, older)
	} else {
		t.setLow(newer+stateNext, older)
	}
	if older != 0 {
		t.setHigh(older+stateNext, newer)
	}
	t.retire(memObjects, s, int(w[s+stateOwner]>>32))
	if w[obj+objectFirst] == 0 {
		t.dropObject(obj)
	}
}

// encodeEntry returns an entry's words.
func encodeEntry(e *Entry) ([]uint64, error) {
	if err := checkMatch(e.Words); err != nil {
		return nil, fmt.Errorf("entry of port %d: %w", e.Port, err)
	}
	out := []uint64{e.Datapath, uint64(e.Inport) | uint64(e.Table)<<32}
	for _, m := range e.Words {
		if m.Word <= WordDatapath {
			return nil, fmt.Errorf("entry of port %d: word %d is no metadata", e.Port, m.Word)
		}
		out = append(out, uint64(m.Word), m.Value)
	}
	return out, nil
}

// A select's words are: number of fields, packed fields, number of buckets, and
// for each: id (0..31), weight (32..47), words of its actions (48..63); actions.

// encodeSelect returns a select's words.
func encodeSelect(s *Select) ([]uint64, error) {
	if len(s.Fields) > 16 || len(s.Buckets) > 1024 {
		return nil, fmt.Errorf("select %d: %d fields and %d buckets, of at most 16 and 1024", s.ID, len(s.Fields), len(s.Buckets))
	}
	out := []uint64{uint64(len(s.Fields))}
	for _, f := range s.Fields {
		if err := checkField(f); err != nil {
			return nil, fmt.Errorf("select %d: %w", s.ID, err)
		}
		out = append(out, pack(f))
	}
	out = append(out, uint64(len(s.Buckets)))
	for i := range s.Buckets {
		b := &s.Buckets[i]
		if err := checkActions(b.Actions, 1); err != nil {
			return nil, fmt.Errorf("select %d: bucket %d: %w", s.ID, b.ID, err)
		}
		at := len(out)
		out = append(out, 0)
		var err error
		if out, err = encodeActions(out, b.Actions); err != nil {
			return nil, fmt.Errorf("select %d: bucket %d: %w", s.ID, b.ID, err)
		}
		if len(out)-at > ActionWordsMax {
			return nil, fmt.Errorf("select %d: bucket %d: too many actions", s.ID, b.ID)
		}
		out[at] = uint64(b.ID) | uint64(b.Weight)<<32 | uint64(len(out)-at-1)<<48
	}
	return out, nil
}

// errMeter says that a meter lets nothing through.
var errMeter = errors.New("rate is 0")

// encodeMeter returns a meter's words.
func encodeMeter(m *Meter) ([]uint64, error) {
	if m.Rate == 0 {
		return nil, fmt.Errorf("meter %d: %w", m.ID, errMeter)
	}
	packets := uint64(0)
	if m.Packets {
		packets = 1
	}
	return []uint64{packets, m.Rate, m.Burst}, nil
}

// decodeMeter undoes encodeMeter.
func decodeMeter(id MeterID, d []uint64) Meter {
	return Meter{ID: id, Packets: d[0] == 1, Rate: d[1], Burst: d[2]}
}
