package message

import "testing"

// TestFeatures holds bits against the numbers that people know them by: a typing
// error in a shift would negotiate another feature.
func TestFeatures(t *testing.T) {
	tests := []struct {
		name string
		got  interface{ String() string }
		want string
	}{
		{"none", Features(0), "none"},
		{"no protocol features", ProtocolFeatures(0), "none"},
		{"all bits", Features(1<<64 - 1), "NET_F_CSUM|NET_F_GUEST_CSUM|NET_F_CTRL_GUEST_OFFLOADS|NET_F_MTU|" +
			"bit4|NET_F_MAC|NET_F_GSO|NET_F_GUEST_TSO4|" +
			"NET_F_GUEST_TSO6|NET_F_GUEST_ECN|NET_F_GUEST_UFO|NET_F_HOST_TSO4|" +
			"NET_F_HOST_TSO6|NET_F_HOST_ECN|NET_F_HOST_UFO|NET_F_MRG_RXBUF|" +
			"NET_F_STATUS|NET_F_CTRL_VQ|NET_F_CTRL_RX|NET_F_CTRL_VLAN|" +
			"NET_F_CTRL_RX_EXTRA|NET_F_GUEST_ANNOUNCE|NET_F_MQ|NET_F_CTRL_MAC_ADDR|" +
			"NOTIFY_ON_EMPTY|bit25|LOG_ALL|ANY_LAYOUT|" +
			"RING_INDIRECT_DESC|RING_EVENT_IDX|PROTOCOL_FEATURES|bit31|" +
			"VERSION_1|ACCESS_PLATFORM|RING_PACKED|IN_ORDER|" +
			"ORDER_PLATFORM|SR_IOV|NOTIFICATION_DATA|NOTIF_CONFIG_DATA|" +
			"RING_RESET|ADMIN_VQ|bit42|bit43|" +
			"bit44|bit45|bit46|bit47|" +
			"bit48|bit49|bit50|NET_F_HASH_TUNNEL|" +
			"NET_F_VQ_NOTF_COAL|NET_F_NOTF_COAL|NET_F_GUEST_USO4|NET_F_GUEST_USO6|" +
			"NET_F_HOST_USO|NET_F_HASH_REPORT|bit58|NET_F_GUEST_HDRLEN|" +
			"NET_F_RSS|NET_F_RSC_EXT|NET_F_STANDBY|NET_F_SPEED_DUPLEX"},
		{"features of a switch", Features(1<<15 | 1<<22 | 1<<28 | 1<<29 | 1<<30 | 1<<32),
			"NET_F_MRG_RXBUF|NET_F_MQ|RING_INDIRECT_DESC|RING_EVENT_IDX|PROTOCOL_FEATURES|VERSION_1"},
		{"protocol features of a switch", ProtocolFeatures(0x1a019), "MQ|REPLY_ACK|NET_MTU|RESET_DEVICE|CONFIGURE_MEM_SLOTS|STATUS"},
		{"all protocol features", ProtocolFeatures(1<<22 - 1), "MQ|LOG_SHMFD|RARP|REPLY_ACK|" +
			"NET_MTU|BACKEND_REQ|CROSS_ENDIAN|CRYPTO_SESSION|" +
			"PAGEFAULT|CONFIG|BACKEND_SEND_FD|HOST_NOTIFIER|" +
			"INFLIGHT_SHMFD|RESET_DEVICE|INBAND_NOTIFICATIONS|CONFIGURE_MEM_SLOTS|" +
			"STATUS|XEN_MMAP|SHARED_OBJECT|DEVICE_STATE|" +
			"GET_VRING_BASE_INFLIGHT|bit21"},
		{"request", SetVringEnable, "SET_VRING_ENABLE"},
		{"last request", CheckDeviceState, "CHECK_DEVICE_STATE"},
		{"unknown request", Request(99), "request 99"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.got.String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if f := FVersion1 | NetFMQ; !f.Has(NetFMQ) || f.Has(NetFMQ|NetFMTU) {
		t.Errorf("Has of %v wants all bits, not some", f)
	}
	if f := ProtocolFMQ | ProtocolFStatus; !f.Has(ProtocolFMQ) || f.Has(ProtocolFMQ|ProtocolFRARP) {
		t.Errorf("Has of %v wants all bits, not some", f)
	}
}

// TestRequests checks that requests 1 to 43 have names, no two alike, and that
// nothing else has one.
func TestRequests(t *testing.T) {
	seen := map[string]Request{}
	for r := Request(0); r < 100; r++ {
		if known, want := r.Known(), r >= 1 && r <= 43; known != want {
			t.Errorf("request %d: known %v, want %v", uint32(r), known, want)
		}
		if other, ok := seen[r.String()]; ok {
			t.Errorf("requests %d and %d are both %v", uint32(r), uint32(other), r)
		}
		seen[r.String()] = r
	}
}
