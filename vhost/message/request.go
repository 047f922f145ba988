package message

import "fmt"

// Request is the first word of the header: what a front end asks for. A reply
// repeats the request that it answers.
type Request uint32

// The requests of section "Front-end message types", with their payloads.
const (
	GetFeatures         Request = 1  // reply: U64, Features
	SetFeatures         Request = 2  // U64, Features
	SetOwner            Request = 3  // none; opens a session
	ResetOwner          Request = 4  // none; deprecated
	SetMemTable         Request = 5  // MemTable, a descriptor for each region
	SetLogBase          Request = 6  // U64, or with LOG_SHMFD size and offset and a descriptor
	SetLogFD            Request = 7  // none, one descriptor
	SetVringNum         Request = 8  // VringState
	SetVringAddr        Request = 9  // VringAddr
	SetVringBase        Request = 10 // VringState
	GetVringBase        Request = 11 // VringState; reply: VringState; stops the ring
	SetVringKick        Request = 12 // VringFD, a descriptor unless NoFD
	SetVringCall        Request = 13 // VringFD, a descriptor unless NoFD
	SetVringErr         Request = 14 // VringFD, a descriptor unless NoFD
	GetProtocolFeatures Request = 15 // reply: U64, ProtocolFeatures
	SetProtocolFeatures Request = 16 // U64, ProtocolFeatures
	GetQueueNum         Request = 17 // reply: U64
	SetVringEnable      Request = 18 // VringState, Num 0 or 1
	SendRARP            Request = 19 // U64: a MAC address in the first six bytes
	NetSetMTU           Request = 20 // U64, see UnmarshalMTU
	SetBackendReqFD     Request = 21 // none, one descriptor
	IOTLBMsg            Request = 22 // an IOTLB entry; reply: U64
	SetVringEndian      Request = 23 // VringState, Num 0 (little) or 1 (big)
	GetConfig           Request = 24 // a window of the configuration space; reply: the same, or empty for an error
	SetConfig           Request = 25 // a window of the configuration space
	CreateCryptoSession Request = 26 // a crypto session
	CloseCryptoSession  Request = 27 // U64
	PostcopyAdvise      Request = 28 // none; reply: one descriptor
	PostcopyListen      Request = 29 // none
	PostcopyEnd         Request = 30 // none; reply: U64
	GetInflightFD       Request = 31 // an inflight description; reply: the same, one descriptor
	SetInflightFD       Request = 32 // an inflight description, one descriptor
	GPUSetSocket        Request = 33 // none, one descriptor
	ResetDevice         Request = 34 // none
	VringKick           Request = 35 // VringState, Num 0
	GetMaxMemSlots      Request = 36 // none; reply: U64
	AddMemReg           Request = 37 // a memory region, one descriptor
	RemMemReg           Request = 38 // a memory region, none or one descriptor
	SetStatus           Request = 39 // U64, Status
	GetStatus           Request = 40 // none; reply: U64, Status
	GetSharedObject     Request = 41 // a UUID; reply: none or one descriptor
	SetDeviceStateFD    Request = 42 // direction and phase, one descriptor; reply: U64, none or one descriptor
	CheckDeviceState    Request = 43 // none; reply: U64
)

// Known reports whether the specification has request r.
func (r Request) Known() bool { return r.name() != "" }

// String returns the specification's name without its VHOST_USER_ prefix, or
// the number of a request that it does not have.
func (r Request) String() string {
	if s := r.name(); s != "" {
		return s
	}
	return fmt.Sprintf("request %d", uint32(r))
}

// name is long because the specification's list is; it decides nothing.
func (r Request) name() string {
	switch r {
	case GetFeatures:
		return "GET_FEATURES"
	case SetFeatures:
		return "SET_FEATURES"
	case SetOwner:
		return "SET_OWNER"
	case ResetOwner:
		return "RESET_OWNER"
	case SetMemTable:
		return "SET_MEM_TABLE"
	case SetLogBase:
		return "SET_LOG_BASE"
	case SetLogFD:
		return "SET_LOG_FD"
	case SetVringNum:
		return "SET_VRING_NUM"
	case SetVringAddr:
		return "SET_VRING_ADDR"
	case SetVringBase:
		return "SET_VRING_BASE"
	case GetVringBase:
		return "GET_VRING_BASE"
	case SetVringKick:
		return "SET_VRING_KICK"
	case SetVringCall:
		return "SET_VRING_CALL"
	case SetVringErr:
		return "SET_VRING_ERR"
	case GetProtocolFeatures:
		return "GET_PROTOCOL_FEATURES"
	case SetProtocolFeatures:
		return "SET_PROTOCOL_FEATURES"
	case GetQueueNum:
		return "GET_QUEUE_NUM"
	case SetVringEnable:
		return "SET_VRING_ENABLE"
	case SendRARP:
		return "SEND_RARP"
	case NetSetMTU:
		return "NET_SET_MTU"
	case SetBackendReqFD:
		return "SET_BACKEND_REQ_FD"
	case IOTLBMsg:
		return "IOTLB_MSG"
	case SetVringEndian:
		return "SET_VRING_ENDIAN"
	case GetConfig:
		return "GET_CONFIG"
	case SetConfig:
		return "SET_CONFIG"
	case CreateCryptoSession:
		return "CREATE_CRYPTO_SESSION"
	case CloseCryptoSession:
		return "CLOSE_CRYPTO_SESSION"
	case PostcopyAdvise:
		return "POSTCOPY_ADVISE"
	case PostcopyListen:
		return "POSTCOPY_LISTEN"
	case PostcopyEnd:
		return "POSTCOPY_END"
	case GetInflightFD:
		return "GET_INFLIGHT_FD"
	case SetInflightFD:
		return "SET_INFLIGHT_FD"
	case GPUSetSocket:
		return "GPU_SET_SOCKET"
	case ResetDevice:
		return "RESET_DEVICE"
	case VringKick:
		return "VRING_KICK"
	case GetMaxMemSlots:
		return "GET_MAX_MEM_SLOTS"
	case AddMemReg:
		return "ADD_MEM_REG"
	case RemMemReg:
		return "REM_MEM_REG"
	case SetStatus:
		return "SET_STATUS"
	case GetStatus:
		return "GET_STATUS"
	case GetSharedObject:
		return "GET_SHARED_OBJECT"
	case SetDeviceStateFD:
		return "SET_DEVICE_STATE_FD"
	case CheckDeviceState:
		return "CHECK_DEVICE_STATE"
	}
	return ""
}
