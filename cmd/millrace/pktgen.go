package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/sys"
	"millrace/perf/pktgen"
	"millrace/vhost/virtq"
)

// pktgenFlags are what the command line says of traffic.
type pktgenFlags struct {
	listen, broadcast, bidi, fast, huge, noCeiling bool

	sizes, pcap, cpus string
	vlans, macs       []string
	queues, flows     int
	ring, batch       int
	latencyEvery      int
	rate, zipf        float64
	count             uint64
	duration, warmup  time.Duration
	connect           time.Duration
}

func (a *app) pktgenCmd() *cobra.Command {
	var f pktgenFlags
	cmd := &cobra.Command{
		Use:   "pktgen END END...",
		Short: "Send traffic between ports and check every frame",
		Long: `Is the other end of two or more ports of a switch: sends frames into the one and
checks what comes out of the other, or of all others. An END is one of

  PATH                   a vhost-user socket: we are the guest
  afxdp:DEVICE[@NETNS]   an AF_XDP socket on a device, such as the far end of a veth
  packet:DEVICE[@NETNS]  a packet socket on a device, such as that of a tap port
  tap:DEVICE[@NETNS]     a TAP device that we make, for a port that takes a device

NETNS is a network namespace: a name that ip netns knows, or an absolute path.

By default each frame carries its flow, a sequence number and the time, and each
frame that comes is compared with what it must be: lost, duplicated, reordered and
corrupted frames are counted, and latencies. With --fast frames are written once
and only counted, so that the switch is measured and not the generator.

What the generator itself can do with the same settings, through a forwarder that
only copies, is measured too and printed beside the result (see --no-ceiling).

The sockets are those of listening ports (dpdkvhostuser); with --listen the switch
connects to them (dpdkvhostuserclient). Nothing goes to any other network.
Ends in the kernel need root, have one queue, and are opened again when their
device goes and comes back; the ceiling is not measured with them.

The exit code is 1 if a frame was lost, duplicated, reordered or corrupted and the
rate was limited: a flood loses frames where the switch is slower.`,
		Example: `  millrace pktgen /run/millrace/p0 /run/millrace/p1
  millrace pktgen D/p0 D/p1 --bidi --size imix --flows 1000 --rate 1e6 --duration 10s
  millrace pktgen D/p0 D/p1 --fast --size 60 --json
  millrace pktgen D/p0 D/p1 --pcap trace.pcap
  millrace pktgen afxdp:eth0@pod1 afxdp:eth0@pod2 --rate 1e5 --duration 10s
  millrace pktgen D/p0 packet:eth1@pod3 --bidi --rate 1e4`,
		Args: between(2, 64, "END", "END"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.pktgen(cmd, &f, args) },
	}
	f.add(cmd)
	return cmd
}

func (f *pktgenFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.listen, "listen", false, "make the sockets and wait for the switch to connect")
	fl.BoolVar(&f.bidi, "bidi", false, "send both ways between each pair of sockets")
	fl.BoolVar(&f.broadcast, "broadcast", false, "send from the first socket to all others by the broadcast address")
	fl.BoolVar(&f.fast, "fast", false, "count frames without a look at them")
	fl.BoolVar(&f.huge, "huge", false, "use reserved huge pages (vm.nr_hugepages), as DPDK guests do")
	fl.BoolVar(&f.noCeiling, "no-ceiling", false, "do not measure the generator itself")
	fl.StringVar(&f.sizes, "size", "60", `bytes of a frame without its checksum, "imix", or SIZE:WEIGHT,...`)
	fl.StringVar(&f.pcap, "pcap", "", "send the frames of this file instead")
	fl.StringVar(&f.cpus, "cpus", "", "CPU of the generator, or two: one to send and one to receive (default: the first allowed)")
	fl.StringSliceVar(&f.vlans, "vlan", nil, "VLAN tag of each socket's frames, 0 for none")
	fl.StringSliceVar(&f.macs, "mac", nil, "address of each socket (default 02:00:00:00:00:01 and so on)")
	fl.IntVar(&f.queues, "queues", 1, "queue pairs of each socket")
	fl.IntVar(&f.flows, "flows", 1, "flows of each stream, by UDP port and IP address")
	fl.Float64Var(&f.zipf, "zipf", 0, "make some flows more frequent than others: Zipf's law with this exponent, over 1")
	fl.IntVar(&f.ring, "ring", 256, "descriptors of a ring")
	fl.IntVar(&f.batch, "batch", 64, "frames sent in one go")
	fl.IntVar(&f.latencyEvery, "latency-every", 0, "take the time of one frame in N (default: every one; none with --fast)")
	fl.Float64Var(&f.rate, "rate", 0, "frames a second of each stream (default: flood)")
	fl.Uint64Var(&f.count, "count", 0, "frames of each stream (default: as many as --duration allows)")
	fl.DurationVar(&f.duration, "duration", 0, "how long to send (default 10s, without --count)")
	fl.DurationVar(&f.warmup, "warmup", 0, "send so long before anything counts")
	fl.DurationVar(&f.connect, "connect", 10*time.Second, "how long to wait for the switch")
}

// config turns flags into what pktgen wants.
func (f *pktgenFlags) config(cmd *cobra.Command, sockets []string) (pktgen.Config, error) {
	c := pktgen.Config{
		Direction: pktgen.Uni, Mode: pktgen.Verify, Flows: f.flows, Zipf: f.zipf, Pcap: f.pcap,
		Rate: f.rate, Count: f.count, Duration: f.duration, Warmup: f.warmup,
		LatencyEvery: f.latencyEvery, RingSize: uint16(f.ring), Huge: f.huge, Batch: f.batch,
	}
	if f.ring < 1 || f.ring > virtq.SizeMax {
		return c, usage(cmd, "--ring: %d is not in 1..%d", f.ring, virtq.SizeMax)
	}
	if f.bidi && f.broadcast {
		return c, usage(cmd, "--bidi and --broadcast do not go together")
	}
	if f.bidi {
		c.Direction = pktgen.Bidi
	}
	if f.broadcast {
		c.Direction = pktgen.Broadcast
	}
	if f.fast {
		c.Mode = pktgen.Fast
	}
	var err error
	if c.Sizes, err = parseSizes(f.sizes); err != nil {
		return c, usage(cmd, "--size: %w", err)
	}
	if c.CPUs, c.PeerCPU, err = f.generatorCPUs(); err != nil {
		return c, usage(cmd, "--cpus: %w", err)
	}
	c.Ports, err = f.ports(sockets)
	if err != nil {
		return c, usage(cmd, "%w", err)
	}
	return c, nil
}

// generatorCPUs returns the generator's CPUs, the first where nothing is said,
// and that of the forwarder that stands in for a switch: the last, as a
// switch's worker has it.
func (f *pktgenFlags) generatorCPUs() (generator []int, forwarder int, err error) {
	cpus, err := sys.AllowedCPUs()
	if err != nil {
		return nil, 0, err
	}
	last := cpus[len(cpus)-1]
	if f.cpus == "" {
		return cpus[:1], last, nil
	}
	generator, err = sys.ParseCPUs(f.cpus)
	if slices.Contains(generator, last) {
		last = cpus[0]
	}
	return generator, last, err
}

func (f *pktgenFlags) ports(sockets []string) ([]pktgen.Port, error) {
	if len(f.vlans) > len(sockets) || len(f.macs) > len(sockets) {
		return nil, fmt.Errorf("more values of --vlan or --mac than sockets")
	}
	var ports []pktgen.Port
	for i, s := range sockets {
		p := pktgen.Port{Name: s[strings.LastIndexByte(s, '/')+1:], Path: s, Listen: f.listen, Queues: f.queues}
		if end, ok := pktgen.ParseEnd(s); ok {
			p = pktgen.Port{Name: s, End: end, Queues: f.queues}
		}
		if i < len(f.vlans) {
			v, err := strconv.ParseUint(f.vlans[i], 10, 12)
			if err != nil {
				return nil, fmt.Errorf("--vlan: %q is no VLAN", f.vlans[i])
			}
			p.VLAN = uint16(v)
		}
		if i < len(f.macs) {
			mac, err := net.ParseMAC(f.macs[i])
			if err != nil {
				return nil, fmt.Errorf("--mac: %w", err)
			}
			p.MAC = mac
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// inKernel reports whether a port is no socket.
func inKernel(ports []pktgen.Port) bool {
	return slices.ContainsFunc(ports, func(p pktgen.Port) bool { return p.End.Kind != "" })
}

// parseSizes reads "60", "imix" or "60:7,590:4".
func parseSizes(s string) ([]pktgen.Share, error) {
	if s == "imix" {
		return pktgen.IMIX(), nil
	}
	var shares []pktgen.Share
	for part := range strings.SplitSeq(s, ",") {
		size, weight, weighted := strings.Cut(part, ":")
		if !weighted {
			weight = "1"
		}
		n, errSize := strconv.Atoi(size)
		w, errWeight := strconv.Atoi(weight)
		if errSize != nil || errWeight != nil || w < 1 {
			return nil, fmt.Errorf("%q is not a size, nor SIZE:WEIGHT", part)
		}
		shares = append(shares, pktgen.Share{Size: n, Weight: w})
	}
	return shares, nil
}

// pktgen runs the generator, and its ceiling.
func (a *app) pktgen(cmd *cobra.Command, f *pktgenFlags, sockets []string) error {
	c, err := f.config(cmd, sockets)
	if err != nil {
		return err
	}
	c.Connect = f.connect
	if !a.json {
		c.Progress = a.showProgress
	}
	if !f.noCeiling && f.pcap == "" && !inKernel(c.Ports) {
		c.CeilingFor = ceilingTime
	}
	r, err := pktgen.Run(cmd.Context(), c)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(r)
	} else {
		_, err = fmt.Fprint(a.out, "\n", r)
	}
	if err == nil && f.rate > 0 && !r.Total.Clean() {
		return fmt.Errorf("of %d frames %d were lost, %d duplicated, %d reordered, %d corrupted", r.Total.Sent, r.Total.Lost, r.Total.Duplicated, r.Total.Reordered, r.Total.Corrupted)
	}
	return err
}

// ceilingTime is enough to see what the generator can do.
const ceilingTime = 500 * time.Millisecond

// showProgress prints a line a second.
func (a *app) showProgress(p pktgen.Progress) {
	fmt.Fprintf(a.out, "%5.0fs  sent %10.3f Mpps  received %10.3f Mpps  %14d frames received\n",
		p.Elapsed.Seconds(), p.TxPPS/1e6, p.RxPPS/1e6, p.Received)
}
