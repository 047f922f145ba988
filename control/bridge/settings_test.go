package bridge

import (
	"testing"

	"millrace/control/ovsdb/model"
)

// TestDatapathID: it is told with 16 digits however it was asked for.
func TestDatapathID(t *testing.T) {
	for asked, want := range map[string]string{
		"00000000000000AB": "00000000000000ab",
		"0xab":             "00000000000000ab",
		"0x00000000000ab":  "00000000000000ab",
		"ab":               "",
		"0x0":              "",
		"0x1_0":            "",
	} {
		got := datapathID(&model.Bridge{UUID: "b", OtherConfig: map[string]string{"datapath-id": asked}})
		if want == "" {
			want = datapathID(&model.Bridge{UUID: "b"})
		}
		if got != want || len(got) != 16 {
			t.Errorf("datapath-id=%s: %s, want %s", asked, got, want)
		}
	}
}
