package message

import "fmt"

// fdRange returns the fewest and the most descriptors that a message may carry,
// by section "Communication" and the messages' own. Requests that we do not know
// carry none: extensions are negotiated, so no honest peer sends them.
func fdRange(m Message) (least, most int, err error) {
	if m.Flags&FlagReply != 0 {
		return replyFDs(m.Request)
	}
	switch m.Request {
	case SetMemTable:
		n, err := memTableLen(m.Payload)
		return n, n, err
	case SetVringKick, SetVringCall, SetVringErr:
		v, err := UnmarshalVringFD(m.Payload)
		if v.NoFD {
			return 0, 0, err
		}
		return 1, 1, err
	case SetLogFD, SetBackendReqFD, SetInflightFD, GPUSetSocket, AddMemReg, SetDeviceStateFD:
		return 1, 1, nil
	case SetLogBase: // one with LOG_SHMFD
		return 0, 1, nil
	case RemMemReg: // one from old front ends
		return 0, 1, nil
	}
	return 0, 0, nil
}

// replyFDs is fdRange for replies. Each of them comes without when the back end
// refuses.
func replyFDs(r Request) (least, most int, err error) {
	switch r {
	case GetInflightFD, PostcopyAdvise, GetSharedObject, SetDeviceStateFD:
		return 0, 1, nil
	}
	return 0, 0, nil
}

// checkFDs holds m against fdRange.
func checkFDs(m Message) error {
	least, most, err := fdRange(m)
	if err != nil {
		return fmt.Errorf("%v: %w", m.Request, err)
	}
	if n := len(m.files); n < least || n > most {
		return fmt.Errorf("%v: %w: %d, want %d to %d", m.Request, ErrFDCount, n, least, most)
	}
	return nil
}
