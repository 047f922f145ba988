package message

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Each payload has a Marshal function, which trusts its caller, and an Unmarshal
// function, which checks size and values in the width of the wire before it
// narrows them. Their errors are ErrSize and ErrValue. Layouts are those of
// section "Payload".

// MarshalU64 returns the payload of a single number.
func MarshalU64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// UnmarshalU64 reads the payload of a single number.
func UnmarshalU64(b []byte) (uint64, error) {
	if err := exactly("number", b, 8); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// Status is a device's status byte (virtio 2.1), which SET_STATUS and GET_STATUS
// carry as a U64: see MarshalU64.
type Status uint8

// The bits of a Status, set by the driver but for StatusNeedsReset.
const (
	StatusAcknowledge Status = 1   // driver has seen the device
	StatusDriver      Status = 2   // driver knows how to drive it
	StatusDriverOK    Status = 4   // driver is ready
	StatusFeaturesOK  Status = 8   // negotiation of features is over
	StatusNeedsReset  Status = 64  // device has lost its way
	StatusFailed      Status = 128 // driver has given up
)

// UnmarshalStatus reads the payload of SET_STATUS or of GET_STATUS's reply.
func UnmarshalStatus(b []byte) (Status, error) {
	v, err := UnmarshalU64(b)
	if err != nil {
		return 0, err
	}
	if v > math.MaxUint8 {
		return 0, fmt.Errorf("device status: %w: %#x, at most 0xff", ErrValue, v)
	}
	return Status(v), nil
}

// UnmarshalMTU reads the payload of NET_SET_MTU, in bytes of layer 3. The least
// is 68 (virtio 5.1.4.1).
func UnmarshalMTU(b []byte) (uint16, error) {
	v, err := UnmarshalU64(b)
	if err != nil {
		return 0, err
	}
	if v < 68 || v > math.MaxUint16 {
		return 0, fmt.Errorf("mtu: %w: %d, must be 68 to 65535", ErrValue, v)
	}
	return uint16(v), nil
}

// A VringState is a number about one ring ("A vring state description"). What
// Num is depends on the request: size, base, enabled or not.
//
//	0  index  uint32
//	4  num    uint32
type VringState struct {
	Index uint32 // of the ring; not bounded here
	Num   uint32
}

// MarshalVringState returns the payload of s.
func MarshalVringState(s VringState) []byte {
	b := binary.LittleEndian.AppendUint32(nil, s.Index)
	return binary.LittleEndian.AppendUint32(b, s.Num)
}

// UnmarshalVringState reads the payload of a VringState.
func UnmarshalVringState(b []byte) (VringState, error) {
	if err := exactly("vring state", b, 8); err != nil {
		return VringState{}, err
	}
	return VringState{
		Index: binary.LittleEndian.Uint32(b),
		Num:   binary.LittleEndian.Uint32(b[4:]),
	}, nil
}

// VringFLog in VringAddr.Flags asks for writes to the used ring to be logged.
const VringFLog uint32 = 1

// A VringAddr says where the parts of a ring are ("A vring address
// description"). Desc, Used and Avail are addresses of the front end's process,
// Log is a guest address. Alignment and bounds are checked by who maps them.
//
//	 0  index  uint32
//	 4  flags  uint32
//	 8  desc   uint64
//	16  used   uint64
//	24  avail  uint64
//	32  log    uint64
type VringAddr struct {
	Index uint32 // of the ring; not bounded here
	Flags uint32
	Desc  uint64
	Used  uint64
	Avail uint64
	Log   uint64
}

// MarshalVringAddr returns the payload of a.
func MarshalVringAddr(a VringAddr) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 40), a.Index)
	b = binary.LittleEndian.AppendUint32(b, a.Flags)
	return appendU64s(b, a.Desc, a.Used, a.Avail, a.Log)
}

// UnmarshalVringAddr reads the payload of SET_VRING_ADDR.
func UnmarshalVringAddr(b []byte) (VringAddr, error) {
	if err := exactly("vring address", b, 40); err != nil {
		return VringAddr{}, err
	}
	return VringAddr{
		Index: binary.LittleEndian.Uint32(b),
		Flags: binary.LittleEndian.Uint32(b[4:]),
		Desc:  binary.LittleEndian.Uint64(b[8:]),
		Used:  binary.LittleEndian.Uint64(b[16:]),
		Avail: binary.LittleEndian.Uint64(b[24:]),
		Log:   binary.LittleEndian.Uint64(b[32:]),
	}, nil
}

// A VringFD is the payload of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR:
// a number whose bits 0-7 are the ring and whose bit 8 says that no descriptor
// comes with the message.
type VringFD struct {
	Index uint8
	NoFD  bool // the receiver polls (kick) or stays silent (call, err)
}

const vringNoFD = 1 << 8

// MarshalVringFD returns the payload of v.
func MarshalVringFD(v VringFD) []byte {
	u := uint64(v.Index)
	if v.NoFD {
		u |= vringNoFD
	}
	return MarshalU64(u)
}

// UnmarshalVringFD reads the payload of a VringFD.
func UnmarshalVringFD(b []byte) (VringFD, error) {
	u, err := UnmarshalU64(b)
	if err != nil {
		return VringFD{}, err
	}
	if u > vringNoFD|math.MaxUint8 {
		return VringFD{}, fmt.Errorf("vring descriptor: %w: %#x has more than an index and bit 8", ErrValue, u)
	}
	return VringFD{Index: uint8(u), NoFD: u&vringNoFD != 0}, nil
}

func appendU64s(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// wraps reports whether start+size does not fit 64 bits. An end of exactly 2^64
// does not.
func wraps(start, size uint64) bool { return start+size < start }
