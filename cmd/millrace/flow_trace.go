package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
	"millrace/dataplane/packet"
)

// A traceQuery says which packet is traced.
type traceQuery struct {
	bridge, port string
	fields       []string
	hex, pcap    string
	frame        int
}

func (a *app) flowTraceCmd() *cobra.Command {
	var q traceQuery
	cmd := &cobra.Command{
		Use:   "trace [BRIDGE] PORT [FIELD=VALUE | KIND]...",
		Short: "Show what would become of a packet, rule by rule",
		Long: `Takes a packet that comes in by a port through the live tables, by the code that
forwards, and shows each table that it comes to, the rule that matches there, what the
rule's actions change, and what leaves in the end. Nothing is sent, learned or counted.

The packet is told in one of three ways. In the words of the language:

  KIND         ip4 ip6 tcp udp sctp icmp4 icmp6 nd arp rarp
  FIELD=VALUE  eth.src eth.dst eth.type vlan.vid vlan.pcp ip4.src ip4.dst ip6.src ip6.dst
               ip.proto ip.ttl ip.dscp ip.ecn ip.frag tcp.src tcp.dst tcp.flags udp.src
               udp.dst sctp.src sctp.dst icmp4.type icmp4.code icmp6.type icmp6.code
               arp.op arp.spa arp.tpa arp.sha arp.tha nd.target nd.sll nd.tll ip6.label
  length=N     the frame has N bytes: zeros follow what has been told

A field says what the packet is: tcp.dst=80 is TCP. What is not told is filled in: UDP
over IPv4 from 10.0.0.1 to 10.0.0.2, between ports 49152 and 80, from 02:00:00:00:00:01
to 02:00:00:00:00:02. As bytes, with --hex. Or as a frame of a capture file, with --pcap,
in pcap or pcapng format.

The output has, in this order:

  packet     the frame, header by header
  table N    the rule that matches there, or none; behind it, its actions, and what each
             of them has changed, further in for what is done on a copy
  consulted  the bits of the packet that mattered: all packets that agree in them have
             the same fate
  program    what the workers cache for them
  result     the frames that leave, as they do, or why none does`,
		Example: `  millrace flow trace vm1
  millrace flow trace vm1 tcp ip4.src=10.0.0.1 ip4.dst=10.0.0.2 tcp.dst=80
  millrace flow trace br0 vm1 arp arp.tpa=10.0.0.254 eth.dst=ff:ff:ff:ff:ff:ff
  millrace flow trace vm1 'vlan.vid=10 icmp6 ip6.dst=2001:db8::9 length=1514'
  millrace flow trace vm1 --hex 020000000002020000000001080045...
  millrace flow trace vm1 --pcap capture.pcapng --frame 17
  millrace flow trace vm1 udp.dst=53 --json | jq '.outputs[].port'`,
		ValidArgsFunction: byPosition(a.portNames()),
	}
	f := cmd.Flags()
	f.StringVar(&q.hex, "hex", "", "the frame in hexadecimal; blanks and colons don't matter; - reads it from standard input")
	f.StringVar(&q.pcap, "pcap", "", "capture file with the frame")
	f.IntVar(&q.frame, "frame", 1, "with --pcap: which frame, from 1")
	cmd.Args = func(cmd *cobra.Command, args []string) error { return q.read(cmd, args) }
	cmd.RunE = a.call(func(ctx context.Context, c *api.Client, _ []string) error {
		frame, err := q.packet(cmd, a.in)
		if err != nil {
			return err
		}
		return a.trace(ctx, c, &q, frame)
	})
	return cmd
}

// read sorts the arguments: names have no =, and what a packet is comes behind the
// port.
func (q *traceQuery) read(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || isPacketWord(args[0]) {
		return usage(cmd, "%s: PORT is missing", cmd.CommandPath())
	}
	q.bridge, q.port, q.fields = "", args[0], args[1:]
	if len(args) > 1 && !isPacketWord(args[1]) {
		q.bridge, q.port, q.fields = args[0], args[1], args[2:]
	}
	ways := 0
	for _, told := range []bool{len(q.fields) > 0, q.hex != "", q.pcap != ""} {
		if told {
			ways++
		}
	}
	switch {
	case ways > 1:
		return usage(cmd, "the packet is told twice: by its fields, by --hex, or by --pcap")
	case cmd.Flag("frame").Changed && q.pcap == "":
		return usage(cmd, "--frame is for --pcap")
	case q.frame < 1:
		return usage(cmd, "--frame: frames are counted from 1")
	}
	return nil
}

// isPacketWord reports whether an argument is about the packet: not a name of a
// bridge or port.
func isPacketWord(arg string) bool {
	first, _, _ := strings.Cut(strings.TrimSpace(arg), " ")
	_, kind := packetKinds[first]
	return kind || strings.Contains(arg, "=")
}

// packet returns the frame that is traced.
func (q *traceQuery) packet(cmd *cobra.Command, in io.Reader) ([]byte, error) {
	switch {
	case q.hex != "":
		return q.fromHex(cmd, in)
	case q.pcap != "":
		return readPcap(q.pcap, q.frame)
	}
	frame, err := parsePacket(strings.Join(q.fields, " "))
	if err != nil {
		return nil, usage(cmd, "%w", err)
	}
	return frame, nil
}

func (q *traceQuery) fromHex(cmd *cobra.Command, in io.Reader) ([]byte, error) {
	text := q.hex
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(in, 8*packet.FrameMax))
		if err != nil {
			return nil, fmt.Errorf("read the frame: %w", err)
		}
		text = string(b)
	}
	frame, err := hex.DecodeString(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == ':' {
			return -1
		}
		return r
	}, text))
	switch {
	case err != nil:
		return nil, usage(cmd, "--hex: %w", err)
	case len(frame) < packet.FrameMin || len(frame) > packet.FrameMax:
		return nil, usage(cmd, "--hex: %d bytes are not in %d..%d", len(frame), packet.FrameMin, packet.FrameMax)
	}
	return frame, nil
}
