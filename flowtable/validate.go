package flowtable

import (
	"errors"
	"fmt"
)

// Bounds of a rule.
const (
	predsMax = 32 // predicates
)

// readOnly returns the bits of a word that no action may write: what kind of
// packet it is, and where it came from.
func readOnly(word uint8) uint64 {
	switch word {
	case WordIn:
		return 0xffffffff_0000ffff
	case WordSrc:
		return 0xff << 8
	case WordL4:
		return 0xffff | 3<<16
	case WordDst:
		return 0xffff
	case WordDatapath:
		return ^uint64(0)
	}
	return 0
}

// checkRule says what is wrong with r itself; what it refers to is looked up
// when it is put in place.
func checkRule(r *Rule) error {
	if r.ID == 0 {
		return errors.New("rule id is 0")
	}
	if err := checkMatch(r.Match); err != nil {
		return err
	}
	if len(r.Preds) > predsMax {
		return fmt.Errorf("%d predicates, of at most %d", len(r.Preds), predsMax)
	}
	for i := range r.Preds {
		if err := checkPred(&r.Preds[i]); err != nil {
			return fmt.Errorf("predicate %d: %w", i, err)
		}
	}
	return checkActions(r.Actions, 1)
}

// checkMatch checks masked words.
func checkMatch(match []Masked) error {
	last := -1
	for _, m := range match {
		switch {
		case m.Word >= ContextWords:
			return fmt.Errorf("match: no word %d", m.Word)
		case int(m.Word) <= last:
			return fmt.Errorf("match: word %d out of order or twice", m.Word)
		case m.Mask == 0:
			return fmt.Errorf("match: word %d has an empty mask", m.Word)
		case m.Value&^m.Mask != 0:
			return fmt.Errorf("match: word %d has value bits outside its mask", m.Word)
		}
		last = int(m.Word)
	}
	return nil
}

// checkField checks that f lies in the context.
func checkField(f Field) error {
	switch {
	case f.Width == 128:
		if int(f.Word)+1 >= ContextWords || f.Shift != 0 {
			return fmt.Errorf("field of 128 bits at word %d, shift %d", f.Word, f.Shift)
		}
	case f.Width == 0 || f.Width > 64 || f.Word >= ContextWords || int(f.Shift)+int(f.Width) > 64:
		return fmt.Errorf("field of %d bits at word %d, shift %d", f.Width, f.Word, f.Shift)
	}
	return nil
}

// fits reports whether the value (high, low) is one of width bits. For up to 64
// bits the value is in high, as Rule has it.
func fits(width uint8, value, low uint64) bool {
	return width == 128 || width == 64 && low == 0 || value>>width == 0 && low == 0
}

// checkPred checks a predicate.
func checkPred(p *Pred) error {
	if err := checkField(p.Field); err != nil {
		return err
	}
	switch p.Kind {
	case InSet, NotInSet:
		return nil
	case InRange:
		if p.Field.Width > 64 || p.Low > p.High || !fits(p.Field.Width, p.High, 0) {
			return fmt.Errorf("range %d..%d of a field of %d bits", p.Low, p.High, p.Field.Width)
		}
	case NotEqual:
		if p.Mask|p.MaskLow == 0 || !fits(p.Field.Width, p.Mask, p.MaskLow) || p.Low&^p.Mask|p.LowLow&^p.MaskLow != 0 {
			return errors.New("value or mask does not fit the field")
		}
	default:
		return fmt.Errorf("unknown kind %d", p.Kind)
	}
	return nil
}

// checkDst checks a field that an action writes. Bit 12 of the TCI may be in
// it, and is left as it is.
func checkDst(f Field) error {
	if err := checkField(f); err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	high, low := f.Bits()
	if high&readOnly(f.Word) != 0 || low != 0 && low&readOnly(f.Word+1) != 0 {
		return fmt.Errorf("destination: word %d, shift %d, width %d cannot be written", f.Word, f.Shift, f.Width)
	}
	return nil
}

// checkSrc checks a field that an action reads, of a width if not zero.
func checkSrc(f Field, width uint8) error {
	if err := checkField(f); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if width != 0 && f.Width != width {
		return fmt.Errorf("widths differ: %d bits from %d", width, f.Width)
	}
	return nil
}

// checkActions checks actions and what is nested in them.
func checkActions(acts []Action, depth int) error {
	if depth > DepthMax {
		return fmt.Errorf("actions nested deeper than %d", DepthMax)
	}
	for i := range acts {
		if err := checkAction(&acts[i], depth); err != nil {
			return fmt.Errorf("action %d: %w", i, err)
		}
	}
	return nil
}

// checkAction checks one action.
func checkAction(a *Action, depth int) error {
	if len(a.Nested) > 0 && a.Code != ActClone && a.Code != ActCT && a.Code != ActReply && a.Code != ActStick {
		return fmt.Errorf("code %d takes no nested actions", a.Code)
	}
	switch a.Code {
	case ActFlood:
		if a.Dst.Width == 0 {
			return nil
		}
		return checkNarrow(a.Dst, 64)
	case ActNext, ActDrop, ActPushVLAN, ActPopVLAN, ActDecTTL, ActMeter, ActDatapath, ActCTClear:
		return nil
	case ActSet:
		if err := checkDst(a.Dst); err != nil {
			return err
		}
		if !fits(a.Dst.Width, a.Value, a.ValueLow) {
			return fmt.Errorf("value does not fit %d bits", a.Dst.Width)
		}
		return nil
	case ActCT:
		return checkConnect(a)
	case ActReply:
		return errors.Join(checkReply(a), checkActions(a.Nested, depth+1))
	case ActStick:
		return checkStick(a)
	case ActMove, ActCTOriginal:
		return errors.Join(checkDst(a.Dst), checkSrc(a.Src, a.Dst.Width))
	case ActExchange:
		return errors.Join(checkDst(a.Dst), checkDst(a.Src), checkSrc(a.Src, a.Dst.Width))
	case ActOutput:
		if a.Arg == 0 {
			return checkNarrow(a.Dst, 32)
		}
		return nil
	case ActClone:
		return checkActions(a.Nested, depth+1)
	case ActSelect:
		if a.Dst.Width == 0 {
			return nil
		}
		return errors.Join(checkDst(a.Dst), checkNarrow(a.Dst, 64))
	case ActGetFDB:
		return errors.Join(checkDst(a.Dst), checkNarrow(a.Dst, 64), checkNarrow(a.Src, 64))
	case ActLookupFDB:
		return errors.Join(checkDst(a.Dst), checkNarrow(a.Dst, 64), checkNarrow(a.Src, 64), checkNarrow(a.Src2, 32))
	case ActPutFDB:
		return errors.Join(checkNarrow(a.Src, 64), checkNarrow(a.Src2, 32))
	case ActLarger, ActAffinity, ActHairpin, ActHairpinReply:
		return errors.Join(checkDst(a.Dst), checkNarrow(a.Dst, 64))
	}
	return fmt.Errorf("unknown code %d", a.Code)
}

// checkNarrow checks a field that is read as a number of at most width bits.
func checkNarrow(f Field, width uint8) error {
	if err := checkSrc(f, 0); err != nil {
		return err
	}
	if f.Width > width {
		return fmt.Errorf("field of %d bits, of at most %d", f.Width, width)
	}
	return nil
}
