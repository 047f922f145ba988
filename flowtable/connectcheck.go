package flowtable

import (
	"errors"
	"fmt"
)

// checkConnect checks an ActCT and what is nested in it.
func checkConnect(a *Action) error {
	switch {
	case a.Arg&0xffff&^ctFlags != 0:
		return fmt.Errorf("connection tracking: unknown flags %#x", a.Arg&0xffff&^ctFlags)
	case a.Src.Width != 0 && a.Arg>>16 != 0:
		return errors.New("connection tracking: a zone and a field that holds one")
	case a.Arg&CTForce != 0 && a.Arg&CTCommit == 0, len(a.Nested) > 0 && a.Arg&CTCommit == 0:
		return errors.New("connection tracking: what only a commit does, without one")
	}
	if a.Src.Width != 0 {
		if err := checkNarrow(a.Src, 32); err != nil {
			return fmt.Errorf("zone: %w", err)
		}
	}
	var first [2]*Action
	for i := range a.Nested {
		if err := checkTerm(&a.Nested[i], &first); err != nil {
			return fmt.Errorf("term %d: %w", i, err)
		}
	}
	return nil
}

// checkTerm checks what is nested in an ActCT. first are the translations of source
// and destination so far.
func checkTerm(a *Action, first *[2]*Action) error {
	switch a.Code {
	case ActSet, ActMove:
		high, _ := a.Dst.Bits()
		if a.Dst.Word != WordLabel && a.Dst.Word != WordLabelLow && (a.Dst.Word != WordCT || high>>32 != 0) {
			return errors.New("a commit sets bits of mark and label only")
		}
		return checkAction(a, 1)
	case ActNAT:
		return checkNAT(a, first)
	}
	return fmt.Errorf("code %d is no term of a commit", a.Code)
}

// checkNAT checks a translation.
func checkNAT(a *Action, first *[2]*Action) error {
	end := a.Table & (NATSource | NATDestination)
	if a.Table&^natFlags != 0 || end == 0 || end == NATSource|NATDestination || len(a.Nested) > 0 {
		return fmt.Errorf("translation: flags %#x", a.Table)
	}
	begin := &first[end-1]
	last := a.Table&NATLast != 0
	switch {
	case a.Table&NATOriginal != 0 && (last || a.Value|a.ValueLow != 0):
		return errors.New("translation: an address, and the connection's own")
	case last && *begin == nil:
		return errors.New("translation: the end of a range without its beginning")
	case !last && *begin != nil:
		return errors.New("translation: two of one end")
	case last && ((*begin).Value > a.Value || (*begin).Value == a.Value && (*begin).ValueLow > a.ValueLow):
		return errors.New("translation: range ends before it begins")
	case uint16(a.Arg) > uint16(a.Arg>>16):
		return fmt.Errorf("translation: ports %d to %d", uint16(a.Arg), uint16(a.Arg>>16))
	}
	if !last {
		*begin = a
	}
	return nil
}
