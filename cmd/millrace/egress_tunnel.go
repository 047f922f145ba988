package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/control/egress/admin"
	"millrace/control/egress/l3"
)

// runTunnel runs an end of a tunnel, and shows it, until the command is told to end.
func (a *app) runTunnel(ctx context.Context, t *l3.Tunnel, shown net.Listener, listen string, readyFD int, log *zap.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- serveTunnel(ctx, t, shown, listen, log) }()
	ended := make(chan struct{})
	go func() { defer close(ended); t.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if err := a.ready(readyFD); err != nil {
		log.Warn("nobody was told that the tunnel is ready", zap.Error(err))
	}
	select {
	case err := <-served:
		return err
	case <-ended:
		return nil
	}
}

// serveTunnel answers those who ask for a tunnel's state until ctx ends.
func serveTunnel(ctx context.Context, t *l3.Tunnel, shown net.Listener, listen string, log *zap.Logger) error {
	if listen != "" {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return fmt.Errorf("serve metrics: %w (--listen says where)", err)
		}
		go func() {
			if err := admin.Serve(ctx, l, tunnelProbes(t)); err != nil {
				log.Error("cannot be asked any more", zap.Stringer("address", l.Addr()), zap.Error(err))
			}
		}()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { admin.Reply(w, t.Status()) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "it is a tunnel of packets, and knows no requests", http.StatusNotFound)
	})
	if err := admin.Serve(ctx, shown, mux); err != nil {
		return fmt.Errorf("answer at %s: %w", shown.Addr(), err)
	}
	<-ctx.Done()
	return nil
}

// tunnelProbes answers /healthz, /readyz and /metrics.
func tunnelProbes(t *l3.Tunnel) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), t)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s := t.Status(); !s.Ready {
			http.Error(w, s.Trouble, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// An absentError says that nobody serves a socket.
type absentError struct{ text string }

func (e *absentError) Error() string { return e.text }

// Is makes it one kind of absent agent.
func (e *absentError) Is(err error) bool { return err == admin.ErrNoAgent }

// tunnelStatusCmd shows an end of a tunnel that command runs.
func (a *app) tunnelStatusCmd(what, socket, command string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the tunnel's peers, and what it let through and dropped",
		Long: `Shows each peer: whether it was heard of lately, where it is, when it shook hands
and was heard last, how long an echo takes, and bytes. Then packets that went
through, and those that did not, by reason. Exit code 1 says that the tunnel runs
and no server has answered in the last 10 seconds.`,
		Example: "  " + command + " status\n  " + command + " status --json | jq .dropped",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s l3.Status
			err := admin.Ask(cmd.Context(), filepath.Join(a.runDir, socket), "/status", nil, &s)
			if errors.Is(err, admin.ErrNoAgent) {
				return &absentError{fmt.Sprintf("no tunnel (%s) is running in %s: start one with `%s`", what, a.runDir, command)}
			}
			if err != nil {
				return err
			}
			return a.showTunnelStatus(s)
		},
	}
}

// showTunnelStatus shows a tunnel, and says by its error that it is not ready.
func (a *app) showTunnelStatus(s l3.Status) error {
	if err := a.showTunnel(s); err != nil {
		return err
	}
	if !s.Ready {
		return errors.New(s.Trouble)
	}
	return nil
}

func (a *app) showTunnel(s l3.Status) error {
	if a.json {
		return a.printJSON(s)
	}
	up := 0
	t := newTable("PEER", "STATE", "ENDPOINT", ">HANDSHAKE", ">SEEN", ">RTT", ">RECEIVED", ">SENT", "PREFIXES")
	for _, p := range s.Peers {
		if p.Up {
			up++
		}
		var prefixes []string
		for _, x := range p.Prefixes {
			prefixes = append(prefixes, x.String())
		}
		t.add(p.Name, yesNo(p.Up, "up", "gone"), p.Endpoint, ago(p.Handshake), ago(p.Seen), roundTrip(p.RTT), count(p.Received), count(p.Sent), strings.Join(prefixes, ","))
	}
	fmt.Fprintf(a.out, "%s, %d of %d peers up, UDP port %d, MTU %d, public key %s\n", yesNo(s.Ready, "ready", "not ready"), up, len(s.Peers), s.Port, s.MTU, s.Key)
	t.print(a.out, "no peer")
	fmt.Fprintf(a.out, "%s packets in, %s out; dropped:%s\n", count(s.Packets.In), count(s.Packets.Out), dropped(s))
	if s.Ready && s.Trouble != "" {
		fmt.Fprintf(a.out, "the setup cannot be read anew: %s\n", s.Trouble)
	}
	return nil
}

// dropped lists the reasons that there were.
func dropped(s l3.Status) string {
	text := ""
	for _, reason := range slices.Sorted(maps.Keys(s.Dropped)) {
		if n := s.Dropped[reason]; n > 0 {
			text += fmt.Sprintf(" %s %d", reason, n)
		}
	}
	if text == "" {
		return " none"
	}
	return text
}

func ago(d time.Duration) string {
	if d == 0 {
		return "never"
	}
	return d.Round(time.Second).String()
}

func roundTrip(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.Round(10 * time.Microsecond).String()
}

func (a *app) egressGenkeyCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "genkey",
		Short:   "Print a new private key for a tunnel",
		Long:    "Prints a private key, as `wg genkey` does. Whoever has it is this end of the tunnel:\nlet nobody else read the file.",
		Example: "  (umask 077; millrace egress genkey > l3.key)",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			return a.printKey("private_key", l3.NewKey())
		},
	}
}

func (a *app) egressPubkeyCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "pubkey",
		Short:   "Print the public key of a private one",
		Long:    "Reads a private key from standard input and prints its public key, as `wg pubkey` does.",
		Example: "  millrace egress pubkey < l3.key",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			line, err := bufio.NewReader(a.in).ReadString('\n')
			if err != nil && line == "" {
				return fmt.Errorf("read a private key: %w", err)
			}
			k, err := l3.ParseKey(strings.TrimSpace(line))
			if err != nil {
				return err
			}
			return a.printKey("public_key", k.Public())
		},
	}
}

// printKey prints a key; name is what it is in JSON.
func (a *app) printKey(name string, k l3.Key) error {
	if a.json {
		return a.printJSON(object{{name, k.String()}})
	}
	_, err := fmt.Fprintln(a.out, k)
	return err
}
