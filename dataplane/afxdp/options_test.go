package afxdp

import (
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"millrace/dataplane/netnstest"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options map[string]string
		want    Settings
		err     string
	}{
		{"none", nil, Settings{Mode: BestEffort}, ""},
		{"mode", map[string]string{"xdp-mode": "generic"}, Settings{Mode: Generic}, ""},
		{"no wakeup", map[string]string{"use-need-wakeup": "false"}, Settings{Mode: BestEffort, NoWakeup: true}, ""},
		{"busy poll", map[string]string{"xdp-busy-poll": "true", "use-need-wakeup": "true"}, Settings{Mode: BestEffort, BusyPoll: true}, ""},
		{"runs", map[string]string{"xdp-send": "runs"}, Settings{Mode: BestEffort, Runs: true}, ""},
		{"by socket", map[string]string{"xdp-send": "socket"}, Settings{Mode: BestEffort}, ""},
		{"wrong way to send", map[string]string{"xdp-send": "true"}, Settings{}, "socket or runs"},
		{"VLANs", map[string]string{"xdp-vlans": "20-22, 0,21,4094"}, Settings{Mode: BestEffort, Select: Selection{VLANs: []uint16{0, 20, 21, 22, 4094}}}, ""},
		{"ports", map[string]string{"xdp-udp-ports": "6081,65535"}, Settings{Mode: BestEffort, Select: Selection{Ports: []uint16{6081, 65535}}}, ""},
		{"addresses", map[string]string{"xdp-macs": "02:00:00:00:00:01, 33:33:00:00:00:02"}, Settings{Mode: BestEffort, Select: Selection{MACs: [][6]byte{{2, 0, 0, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 2}}}}, ""},
		{"wrong mode", map[string]string{"xdp-mode": "fast"}, Settings{}, "choose one of"},
		{"wrong truth", map[string]string{"use-need-wakeup": "yes"}, Settings{}, "true or false"},
		{"wrong VLAN", map[string]string{"xdp-vlans": "4095"}, Settings{}, "number up to 4094"},
		{"VLANs the wrong way", map[string]string{"xdp-vlans": "9-8"}, Settings{}, "range"},
		{"no VLAN", map[string]string{"xdp-vlans": ""}, Settings{}, "number"},
		{"wrong port", map[string]string{"xdp-udp-ports": "65536"}, Settings{}, "number up to 65535"},
		{"wrong address", map[string]string{"xdp-macs": "02:00:00:00:00:00:00:01"}, Settings{}, "Ethernet address"},
		{"too many addresses", map[string]string{"xdp-macs": strings.Repeat("02:00:00:00:00:01,", 1024) + "02:00:00:00:00:01"}, Settings{}, "more than 1024"},
		{"unknown", map[string]string{"n_rxq_desc": "64"}, Settings{}, "no such option"},
	} {
		got, err := Parse(tt.options)
		if tt.err == "" && err != nil || tt.err != "" && (!errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.err)
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// FuzzParse: what is taken is in bounds, and what is not has an error.
func FuzzParse(f *testing.F) {
	for i, v := range []string{"native", "false", "1-4", "02:00:00:00:00:01", "6081"} {
		f.Add(uint8(i), v)
	}
	f.Fuzz(func(t *testing.T, key uint8, value string) {
		s, err := Parse(map[string]string{Keys()[int(key)%len(Keys())]: value})
		if err != nil {
			return
		}
		for _, v := range s.Select.VLANs {
			if v > 4094 {
				t.Errorf("VLAN %d", v)
			}
		}
		if len(s.Select.MACs) > macsMax {
			t.Errorf("%d addresses", len(s.Select.MACs))
		}
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{}, {Name: "sixteen-bytes-xx"}, {Name: "a", Queues: -1}, {Name: "a", Queues: QueuesMax + 1}, {Name: "a", MTU: -1}, {Name: "a", MTU: 1 << 20},
	} {
		if _, err := Open(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v, want ErrOptions", o, err)
		}
	}
}

// TestChoices: bindings are tried best first, and only those that the mode
// allows.
func TestChoices(t *testing.T) {
	const small, large = 1518, 9018
	for _, tt := range []struct {
		mode   Mode
		native bool
		frame  int
		want   string
	}{
		{BestEffort, true, small, "zero-copy; copy, multi-buffer; copy"},
		{BestEffort, true, large, "zero-copy, multi-buffer; copy, multi-buffer; copy"},
		{BestEffort, false, small, "copy, multi-buffer; copy"},
		{ZeroCopy, true, small, "zero-copy"},
		{Native, true, small, "copy, multi-buffer; copy"},
		{Generic, false, large, "copy, multi-buffer; copy"},
	} {
		var got []string
		for _, b := range bindings(&Settings{Mode: tt.mode}, tt.native, tt.frame) {
			got = append(got, b.String())
		}
		if s := strings.Join(got, "; "); s != tt.want {
			t.Errorf("%s, native %v, %d bytes: %s, want %s", tt.mode, tt.native, tt.frame, s, tt.want)
		}
	}
}

func TestZeroCopy(t *testing.T) {
	for _, tt := range []struct {
		f     xdpFeatures
		multi bool
		ok    bool
	}{
		{xdpFeatures{}, true, true}, {xdpFeatures{flags: 7}, false, false}, {xdpFeatures{flags: 15, zcChunk: 1}, false, true},
		{xdpFeatures{flags: 15, zcChunk: 1}, true, false}, {xdpFeatures{flags: 15, zcChunk: 5}, true, true},
	} {
		if err := tt.f.zeroCopy(tt.multi); (err == nil) != tt.ok {
			t.Errorf("%+v, several chunks %v: %v", tt.f, tt.multi, err)
		}
	}
}

// TestAskFeatures asks for what a veth can do, which is no zero-copy.
func TestAskFeatures(t *testing.T) {
	netnstest.Need(t)
	netnstest.NewPod(t, "pa", 1)
	d, err := look("pa")
	if err != nil {
		t.Fatal(err)
	}
	f, err := askFeatures(d.index)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("needs Linux 6.3: %v", err)
	}
	const basic = 1
	if err != nil || f.flags&basic == 0 {
		t.Errorf("a veth can do %+v (%v), want XDP", f, err)
	}
	if _, err := askFeatures(1 << 30); err == nil {
		t.Error("a device that there is not can do something")
	}
}

// FuzzFeatures: of what a driver tells, the last that is whole of each kind counts, which is what one finds who looks
// from the end.
func FuzzFeatures(f *testing.F) {
	f.Add([]byte{12, 0, 3, 0, 15, 0, 0, 0, 0, 0, 0, 0, 8, 0, 4, 0, 5, 0, 0, 0})
	f.Add([]byte{8, 0, 3, 0, 15, 0, 0, 0, 12, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 4, 0})
	f.Add([]byte{3, 0, 3, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		attrs, err := nl.ParseRouteAttr(data)
		if err != nil {
			return
		}
		last := func(kind uint16, size int) []byte {
			for _, a := range slices.Backward(attrs) {
				if a.Attr.Type == kind && len(a.Value) >= size {
					return a.Value[:size]
				}
			}
			return make([]byte, size)
		}
		want := xdpFeatures{binary.NativeEndian.Uint64(last(netdevFeatures, 8)), binary.NativeEndian.Uint32(last(netdevZCSegs, 4))}
		if got := readFeatures(attrs); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// FuzzEvent gives anything to what reads netlink messages.
func FuzzEvent(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), append(make([]byte, 16), 8, 0, 3, 0, 'p', 'a', 0, 0))
	f.Add(uint16(unix.RTM_DELLINK), append(make([]byte, 16), 8, 0, 45, 0, 1, 0, 0, 0))
	f.Add(uint16(unix.RTM_NEWADDR), make([]byte, 8))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		m := &syscall.NetlinkMessage{Header: syscall.NlMsghdr{Len: uint32(16 + len(data)), Type: kind}, Data: data}
		e, ok := parseEvent(m)
		if !ok && e != (event{}) {
			t.Errorf("nothing is said, and yet %+v", e)
		}
		if len(e.name) > len(data) || e.moved && kind != unix.RTM_DELLINK {
			t.Errorf("%+v of message %d", e, kind)
		}
	})
}
