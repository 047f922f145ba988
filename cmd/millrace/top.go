package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

// ANSI sequences (ECMA-48) that top uses.
const (
	ansiScreen   = "\x1b[?1049h\x1b[?25l" // a screen of our own, no cursor
	ansiNoScreen = "\x1b[?25h\x1b[?1049l"
	ansiHome     = "\x1b[H"
	ansiLineEnd  = "\x1b[K\n" // clears what an earlier, longer line left
	ansiBelow    = "\x1b[J"
	ansiBold     = "\x1b[1m"
	ansiPlain    = "\x1b[0m"
)

// topFlags are the flags of top.
type topFlags struct {
	interval time.Duration
	count    int
}

func (a *app) topCmd() *cobra.Command {
	var f topFlags
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch rates, drops and load",
		Long: `Shows rates of all ports, busiest first, the load of the workers and the drops of
the last interval, and redraws them until you press q or Ctrl-C. Where standard
output is no terminal it prints one screen below the other; --json prints a document
for each.`,
		Example: `  millrace top
  millrace top --interval 250ms
  millrace top --count 5 > rates.txt`,
		Args: exactly(),
	}
	cmd.Flags().DurationVar(&f.interval, "interval", time.Second, "time between two screens")
	cmd.Flags().IntVar(&f.count, "count", 0, "screens to show (default: until interrupted)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.interval < 10*time.Millisecond || f.count < 0 {
			return usage(cmd, "--interval: at least 10ms, and --count not negative")
		}
		return a.follow(func(ctx context.Context, c *api.Client, _ []string) error { return a.top(ctx, c, &f) })(cmd, args)
	}
	return cmd
}

func (a *app) top(ctx context.Context, c *api.Client, f *topFlags) error {
	if a.json {
		return every(ctx, c, f.interval, f.count, func(p period) error { return a.printJSON(p.json(true)) })
	}
	return a.onScreen(ctx, func(ctx context.Context, draw func(string) error) error {
		return every(ctx, c, f.interval, f.count, func(p period) error { return draw(screen(c.Info, p)) })
	})
}

// onScreen has run draw one screen after another: over the one before on a
// terminal, where q ends it, and below it elsewhere.
func (a *app) onScreen(ctx context.Context, run func(ctx context.Context, draw func(text string) error) error) error {
	out, ok := a.out.(*os.File)
	if !ok || !isTerminal(out) {
		return run(ctx, func(text string) error {
			_, err := io.WriteString(a.out, text+"\n")
			return err
		})
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	fmt.Fprint(out, ansiScreen)
	defer fmt.Fprint(out, ansiNoScreen)
	defer a.onKey(quit)()
	err := run(ctx, func(text string) error {
		_, err := io.WriteString(out, redraw(text, height(out)))
		return err
	})
	if ctx.Err() != nil {
		return nil // q
	}
	return err
}

// redraw is what turns the screen into text, of which it shows as many lines
// as it has.
func redraw(text string, lines int) string {
	all := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	all[0] = ansiBold + all[0] + ansiPlain
	if lines > 1 && len(all) > lines-1 {
		all = all[:lines-1]
	}
	return ansiHome + strings.Join(all, ansiLineEnd) + ansiLineEnd + ansiBelow
}

// screen is all that top shows of a period.
func screen(info *api.GetInfoResponse, p period) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n\n", p.now.GetAt().AsTime().Local().Format(time.TimeOnly), headline(info))
	workerTable(&b, p)
	fmt.Fprintln(&b)
	slices.SortStableFunc(p.now.GetPorts(), func(x, y *api.PortStats) int {
		rx, ry := p.rate(x), p.rate(y)
		return cmp.Compare(ry.rxFrames+ry.txFrames+ry.drops, rx.rxFrames+rx.txFrames+rx.drops)
	})
	printRates(&b, p)
	fmt.Fprintln(&b)
	newDrops(&b, p)
	return b.String()
}

// newDrops prints the drops of the period.
func newDrops(w io.Writer, p period) {
	t := newTable("DROPS OF PORT", "DIRECTION", "REASON", ">FRAMES/S")
	for _, s := range p.now.GetPorts() {
		b := p.portBefore(s)
		addDrops(t, p, s.GetName(), "in", s.GetRxDrops(), b.GetRxDrops())
		addDrops(t, p, s.GetName(), "out", s.GetTxDrops(), b.GetTxDrops())
	}
	t.print(w, "no drops")
}

func addDrops(t *table, p period, port, direction string, now, before []*api.Drop) {
	was := make(map[string]uint64)
	for _, d := range before {
		was[d.GetReason()] = d.GetFrames()
	}
	for _, d := range now {
		if grown(d.GetFrames(), was[d.GetReason()]) > 0 {
			t.add(port, direction, d.GetReason(), short(p.perSecond(d.GetFrames(), was[d.GetReason()])))
		}
	}
}
