package peers

import (
	"context"
	"errors"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"
)

const portStatsOutput = `show port stats all

  ######################## NIC statistics for port 0  ########################
  RX-packets: 12         RX-missed: 3          RX-bytes:  720
  RX-errors: 4
  RX-nombuf:  5         
  TX-packets: 13157024   TX-errors: 6          TX-bytes:  842049536

  Throughput (since last show)
  Rx-pps:            7          Rx-bps:            0
  Tx-pps:            8          Tx-bps:            0
  ############################################################################

  ######################## NIC statistics for port 1  ########################
  RX-packets: 1          RX-missed: 0          RX-bytes:  60
`

const forwardStatsOutput = `Telling cores to stop...
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 1              RX-dropped: 2             RX-total: 3
  TX-packets: 13369536       TX-dropped: 276717536     TX-total: 290087072
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 9              RX-dropped: 9             RX-total: 9
`

const pmdStatsOutput = `pmd thread numa_id 0 core_id 1:
  packets received: 321888
  packet recirculations: 2
  avg. datapath passes per packet: 1.00
  phwol hits: 0
  simple match hits: 321000
  emc hits: 800
  smc hits: 80
  megaflow hits: 7
  avg. subtable lookups per megaflow hit: 1.00
  miss with success upcall: 1
  miss with failed upcall: 3
  avg. packets per output batch: 31.99
  idle cycles: 236587680 (87.18%)
  processing cycles: 34763904 (12.82%)
  avg cycles per packet: 843.00 (271351584/321888)
  avg processing cycles per packet: 108.00 (34763904/321888)
main thread:
  packets received: 5
  idle cycles: 5 (1.00%)
`

const dumpFlowsOutput = `flow-dump from pmd on cpu core: 1
ufid:b8be790a-b502-485a-9045-0ca7d300d633, skb_priority(0/0),ct_state(0/0),recirc_id(0),dp_hash(0/0),in_port(vh0),packet_type(ns=0,id=0),eth(src=02:00:00:00:00:01/00:00:00:00:00:00,dst=02:00:00:00:00:02/00:00:00:00:00:00),eth_type(0x0800),ipv4(src=10.255.42.211/255.255.240.0,dst=172.16.12.22/255.255.255.252,proto=17,tos=0/0,ttl=64/0,frag=no),udp(src=23677/0xfffc,dst=8119), packets:0, bytes:0, used:never, dp:ovs, actions:vh1, dp-extra-info:miniflow_bits(4,3)
ufid:7ef7a74e-2e8e-4114-bf1e-d465c29138a4, skb_priority(0/0),ct_state(0/0),recirc_id(0),dp_hash(0/0),in_port(vh0),packet_type(ns=0,id=0),eth(src=02:00:00:00:00:03/00:00:00:00:00:00,dst=02:00:00:00:00:02/00:00:00:00:00:00),eth_type(0x0800),ipv4(src=10.1.0.0/255.255.240.0,dst=172.16.2.20/255.255.255.252,proto=17,tos=0/0,ttl=64/0,frag=no),udp(src=9708/0xfffc,dst=80), packets:7, bytes:0, used:0.1s, dp:ovs, actions:drop
ufid:7ef7a74e-2e8e-4114-bf1e-d465c29138a5, skb_priority(0/0),ct_state(0/0),recirc_id(0),dp_hash(0/0),in_port(vh0),packet_type(ns=0,id=0),eth(src=02:00:00:00:00:03/00:00:00:00:00:00,dst=02:00:00:00:00:02/00:00:00:00:00:00),eth_type(0x0800),ipv4(src=10.1.0.0/255.255.224.0,dst=172.16.2.20/255.255.255.252,proto=17,tos=0/0,ttl=64/0,frag=no),udp(src=9708/0xfffc,dst=80), packets:7, bytes:0, used:0.1s, dp:ovs, actions:drop
`

const upcallShowOutput = `netdev@ovs-netdev:
  flows         : (current 3851) (avg 4769) (max 6082) (limit 32000)
  dump duration : 14ms
  ufid enabled : true

  7: (keys 3866)
`

// TestParse reads what DPDK 22.11 and OVS 3.1 print.
func TestParse(t *testing.T) {
	tests := []struct {
		name      string
		got, want any
	}{
		{"port statistics", parsePortStats(portStatsOutput), []PortStats{
			{Port: 0, RxPackets: 12, RxMissed: 3, RxBytes: 720, RxErrors: 4, RxNoMbuf: 5, TxPackets: 13157024, TxErrors: 6, TxBytes: 842049536, RxPPS: 7, TxPPS: 8},
			{Port: 1, RxPackets: 1, RxBytes: 60}}},
		{"forward statistics", parseForwardStats(forwardStatsOutput), []ForwardStats{
			{RxPackets: 1, RxDropped: 2, RxTotal: 3, TxPackets: 13369536, TxDropped: 276717536, TxTotal: 290087072}}},
		{"poll-mode threads", parsePMDStats(pmdStatsOutput), []PMDStats{
			{Core: 1, Packets: 321888, Recirculations: 2, SimpleMatchHits: 321000, EMCHits: 800, SMCHits: 80, MegaflowHits: 7,
				Misses: 1, FailedMisses: 3, PacketsPerBatch: 31.99, IdleCycles: 236587680, ProcessingCycles: 34763904}}},
		{"cycles per packet", int(parsePMDStats(pmdStatsOutput)[0].CyclesPerPacket()), 843},
		{"processing cycles per packet", int(parsePMDStats(pmdStatsOutput)[0].ProcessingCyclesPerPacket()), 108},
		{"megaflows", parseDatapathFlows(dumpFlowsOutput), DatapathFlows{Flows: 3, Masks: 2}},
		{"revalidators", parseUpcallState(upcallShowOutput), UpcallState{Flows: 3851, Limit: 32000}},
		{"no packets", PMDStats{IdleCycles: 5}.CyclesPerPacket(), 0.0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !reflect.DeepEqual(tt.got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", tt.got, tt.want)
			}
		})
	}
}

// FuzzParse checks that no output of a peer makes the parsers panic.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{portStatsOutput, forwardStatsOutput, pmdStatsOutput, dumpFlowsOutput, upcallShowOutput, "a/b.ko: c.ko d.ko\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, out string) {
		parsePortStats(out)
		parseForwardStats(out)
		parsePMDStats(out)
		parseDatapathFlows(out)
		parseUpcallState(out)
		parseModulesDep(out)
	})
}

// TestCompareVersions checks that the newest kernel is the newest.
func TestCompareVersions(t *testing.T) {
	names := []string{"vmlinuz-6.1.0-9-amd64", "vmlinuz-6.12.0-1-amd64", "vmlinuz-6.1.0-56-amd64", "vmlinuz-5.10.0-99-amd64"}
	slices.SortFunc(names, compareVersions)
	want := []string{"vmlinuz-5.10.0-99-amd64", "vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-56-amd64", "vmlinuz-6.12.0-1-amd64"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

// TestAwait checks the three ways in which waiting for output ends.
func TestAwait(t *testing.T) {
	want := regexp.MustCompile(`ok (\d+)`)
	t.Run("text", func(t *testing.T) {
		tr := newTranscript()
		go func() {
			for _, part := range []string{"old ok 1 new ", "o", "k 2"} {
				_, _ = tr.Write([]byte(part))
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		before, match, err := tr.await(ctx, 0, want)
		if err != nil || before != "old " || match[1] != "1" {
			t.Fatalf("got %q, %q, %v", before, match, err)
		}
		if before, match, err = tr.await(ctx, len("old ok 1"), want); err != nil || before != " new " || match[1] != "2" {
			t.Errorf("got %q, %q, %v", before, match, err)
		}
	})
	t.Run("end", func(t *testing.T) {
		tr := newTranscript()
		go tr.end()
		if _, _, err := tr.await(t.Context(), 0, want); !errors.Is(err, errEnded) {
			t.Errorf("got %v, want %v", err, errEnded)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, _, err := newTranscript().await(ctx, 0, want); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

// TestLibraries finds the files in what ldd prints.
func TestLibraries(t *testing.T) {
	got := libraries("\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld-linux.so.2 (0x00007f)\n")
	if want := []string{"/lib/x/libc.so.6", "/lib64/ld-linux.so.2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := libraries("\tnot a dynamic executable\n"); got != nil {
		t.Errorf("of none: %q", got)
	}
}
