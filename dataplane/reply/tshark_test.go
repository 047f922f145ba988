package reply

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"millrace/dataplane/parse/parsetest"
)

// TestTshark has tshark verify the checksums of replies.
func TestTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("needs tshark")
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 4))
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	if err := w.WriteFileHeader(2048, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for len(frames) < 600 {
		o := Order{Kind: kinds[r.IntN(len(kinds))], Turned: r.IntN(2) == 0}
		if f := about(parsetest.Frame(r), o); len(f) > 0 {
			frames = append(frames, f)
			if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: len(f), Length: len(f)}, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	name := filepath.Join(t.TempDir(), "replies.pcap")
	if err := os.WriteFile(name, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-n", "-r", name, "-T", "fields", "-E", "occurrence=f", "-E", "separator=,"}
	for _, proto := range []string{"ip", "tcp"} {
		args = append(args, "-o", proto+".check_checksum:TRUE")
	}
	args = append(args, "-o", "sctp.checksum:crc-32c")
	for _, field := range []string{"ip.checksum.status", "tcp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status", "sctp.checksum.status", "icmp.type", "icmpv6.type"} {
		args = append(args, "-e", field)
	}
	out, err := exec.Command(tshark, args...).Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(frames) {
		t.Fatalf("tshark has seen %d of %d frames", len(lines), len(frames))
	}
	for i, line := range lines {
		f := strings.Split(line, ",")
		good, last := 0, 5
		if f[5] != "" || f[6] != "" { // what an error quotes may be cut off
			f[1], last = "", 4
		}
		for _, status := range f[:last] {
			switch status {
			case "1", "Good":
				good++
			case "":
			default:
				t.Errorf("seed %d: checksums of %x: %s", seed, frames[i], line)
			}
		}
		if good == 0 {
			t.Errorf("seed %d: tshark has verified no checksum of %x: %s", seed, frames[i], line)
		}
	}
}
