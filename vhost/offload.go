package vhost

import (
	"millrace/dataplane/packet"
	"millrace/vhost/message"
)

// offloads are the features by which the two ends agree on what frames may ask for,
// and what that is: from the driver, and to it (virtio 5.1.3).
func offloads() [6]offload {
	return [...]offload{
		{message.NetFCsum, message.NetFGuestCsum, packet.TakesSum},
		{message.NetFHostTSO4, message.NetFGuestTSO4, packet.TakesTCP4},
		{message.NetFHostTSO6, message.NetFGuestTSO6, packet.TakesTCP6},
		{message.NetFHostECN, message.NetFGuestECN, packet.TakesECN},
		{message.NetFHostUSO, message.NetFGuestUSO4, packet.TakesUDP4},
		{message.NetFHostUSO, message.NetFGuestUSO6, packet.TakesUDP6},
	}
}

// An offload is one line of offloads.
type offload struct {
	from, to message.Features
	takes    packet.Takes
}

// offloadFeatures are all of them.
func offloadFeatures() (f message.Features) {
	for _, o := range offloads() {
		f |= o.from | o.to
	}
	return f
}

// offloadOf is what features f say of frames to the driver, or from it.
func offloadOf(f message.Features, toDriver bool) (t packet.Takes) {
	for _, o := range offloads() {
		feature := o.from
		if toDriver {
			feature = o.to
		}
		if f.Has(feature) {
			t |= o.takes
		}
	}
	return packet.TakesOf(t)
}
