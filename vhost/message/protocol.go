package message

// ProtocolFeatures is the set of extensions of the protocol itself, exchanged
// by GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES (section "Protocol
// features"). They exist only where the device offers FProtocolFeatures.
type ProtocolFeatures uint64

// The specification's VHOST_USER_PROTOCOL_F_ bits.
const (
	ProtocolFMQ                   ProtocolFeatures = 1 << 0  // GET_QUEUE_NUM works, more than one queue pair
	ProtocolFLogShmFD             ProtocolFeatures = 1 << 1  // SET_LOG_BASE carries a descriptor
	ProtocolFRARP                 ProtocolFeatures = 1 << 2  // SEND_RARP works
	ProtocolFReplyAck             ProtocolFeatures = 1 << 3  // FlagNeedReply is honoured
	ProtocolFNetMTU               ProtocolFeatures = 1 << 4  // NET_SET_MTU works
	ProtocolFBackendReq           ProtocolFeatures = 1 << 5  // a second socket for the back end's requests
	ProtocolFCrossEndian          ProtocolFeatures = 1 << 6  // SET_VRING_ENDIAN works
	ProtocolFCryptoSession        ProtocolFeatures = 1 << 7  // crypto requests work
	ProtocolFPageFault            ProtocolFeatures = 1 << 8  // postcopy requests work
	ProtocolFConfig               ProtocolFeatures = 1 << 9  // GET_CONFIG and SET_CONFIG work
	ProtocolFBackendSendFD        ProtocolFeatures = 1 << 10 // descriptors on the second socket
	ProtocolFHostNotifier         ProtocolFeatures = 1 << 11 // host notifiers on the second socket
	ProtocolFInflightShmFD        ProtocolFeatures = 1 << 12 // inflight requests work
	ProtocolFResetDevice          ProtocolFeatures = 1 << 13 // RESET_DEVICE works
	ProtocolFInbandNotifications  ProtocolFeatures = 1 << 14 // VRING_KICK works
	ProtocolFConfigureMemSlots    ProtocolFeatures = 1 << 15 // regions are added and removed one by one
	ProtocolFStatus               ProtocolFeatures = 1 << 16 // SET_STATUS and GET_STATUS work
	ProtocolFXenMmap              ProtocolFeatures = 1 << 17 // longer region descriptions; never offered by us
	ProtocolFSharedObject         ProtocolFeatures = 1 << 18 // GET_SHARED_OBJECT works
	ProtocolFDeviceState          ProtocolFeatures = 1 << 19 // device state requests work
	ProtocolFGetVringBaseInflight ProtocolFeatures = 1 << 20 // GET_VRING_BASE may leave requests in flight
)

// Has reports whether every feature of want is in f.
func (f ProtocolFeatures) Has(want ProtocolFeatures) bool { return f&want == want }

// String lists the names of f in the order of their bits: "MQ|REPLY_ACK".
func (f ProtocolFeatures) String() string {
	return bitNames(uint64(f), func(bit int) string {
		return protocolFeatureName(1 << bit)
	})
}

// protocolFeatureName returns the name of f, which has one bit, or "".
func protocolFeatureName(f ProtocolFeatures) string {
	switch f {
	case ProtocolFMQ:
		return "MQ"
	case ProtocolFLogShmFD:
		return "LOG_SHMFD"
	case ProtocolFRARP:
		return "RARP"
	case ProtocolFReplyAck:
		return "REPLY_ACK"
	case ProtocolFNetMTU:
		return "NET_MTU"
	case ProtocolFBackendReq:
		return "BACKEND_REQ"
	case ProtocolFCrossEndian:
		return "CROSS_ENDIAN"
	case ProtocolFCryptoSession:
		return "CRYPTO_SESSION"
	case ProtocolFPageFault:
		return "PAGEFAULT"
	case ProtocolFConfig:
		return "CONFIG"
	case ProtocolFBackendSendFD:
		return "BACKEND_SEND_FD"
	case ProtocolFHostNotifier:
		return "HOST_NOTIFIER"
	case ProtocolFInflightShmFD:
		return "INFLIGHT_SHMFD"
	case ProtocolFResetDevice:
		return "RESET_DEVICE"
	case ProtocolFInbandNotifications:
		return "INBAND_NOTIFICATIONS"
	case ProtocolFConfigureMemSlots:
		return "CONFIGURE_MEM_SLOTS"
	case ProtocolFStatus:
		return "STATUS"
	case ProtocolFXenMmap:
		return "XEN_MMAP"
	case ProtocolFSharedObject:
		return "SHARED_OBJECT"
	case ProtocolFDeviceState:
		return "DEVICE_STATE"
	case ProtocolFGetVringBaseInflight:
		return "GET_VRING_BASE_INFLIGHT"
	}
	return ""
}
