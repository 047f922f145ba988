package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) dropsCmd() *cobra.Command {
	var reasons bool
	cmd := &cobra.Command{
		Use:   "drops",
		Short: "Show why frames were not delivered",
		Long: `Shows every frame that was not delivered, by port and reason, and whether the
account is exact. It is kept in two sums, and both hold for every port:

  rx + copies = outputs + drops   of the frames that came from the port: each is
                                  output or dropped, and a frame that is output
                                  n times counts n-1 copies
  offered + segments = tx + joined + drops
                                  of the outputs to the port: each is sent to its
                                  peer or dropped; a super-frame that is cut in n
                                  for it counts n-1 segments, and one that is made
                                  of n counts n-1 joined

DIRECTION tells in which of the two a line counts: in, under the port that the
frame came from, or out, under the port that it should have left by.`,
		Example: `  millrace drops
  millrace drops --reasons
  millrace drops --json | jq .balance.exact`,
		Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *api.Client, _ []string) error {
			s, err := c.GetStats(ctx, &api.GetStatsRequest{})
			if err != nil {
				return err
			}
			if reasons {
				return a.printReasons(s.GetReasons())
			}
			return a.printDrops(s)
		}),
	}
	cmd.Flags().BoolVar(&reasons, "reasons", false, "list all reasons that there are, and what they mean")
	return cmd
}

func (a *app) printReasons(reasons []*api.Reason) error {
	if a.json {
		return a.printJSON(list(reasons))
	}
	t := newTable("REASON", "MEANING")
	for _, r := range reasons {
		t.add(r.GetName(), r.GetText())
	}
	t.print(a.out, "no reasons")
	return nil
}

// A balance is both sums of one port, or of all.
type balance struct{ rx, copies, outputs, rxDrops, offered, segments, tx, joined, txDrops uint64 }

func balanceOf(p *api.PortStats) balance {
	return balance{
		rx: p.GetRxFrames(), copies: p.GetCopies(), outputs: p.GetOutputs(), rxDrops: total(p.GetRxDrops()),
		offered: p.GetOffered(), segments: p.GetFinished().GetSegments(), tx: p.GetTxFrames(), joined: p.GetFinished().GetJoined(), txDrops: total(p.GetTxDrops()),
	}
}

func (b *balance) add(o balance) {
	b.rx += o.rx
	b.copies += o.copies
	b.outputs += o.outputs
	b.rxDrops += o.rxDrops
	b.offered += o.offered
	b.segments += o.segments
	b.tx += o.tx
	b.joined += o.joined
	b.txDrops += o.txDrops
}

// missing is how many frames more went in than are accounted for, in each sum.
func (b *balance) missing() (in, out int64) {
	return int64(b.rx + b.copies - b.outputs - b.rxDrops), int64(b.offered + b.segments - b.tx - b.joined - b.txDrops)
}

func (b *balance) exact() bool {
	in, out := b.missing()
	return in == 0 && out == 0
}

func (b *balance) json() object {
	in, out := b.missing()
	return object{
		{"rx_frames", b.rx}, {"copies", b.copies}, {"outputs", b.outputs}, {"rx_drops", b.rxDrops}, {"rx_missing", in},
		{"offered", b.offered}, {"segments", b.segments}, {"tx_frames", b.tx}, {"joined", b.joined}, {"tx_drops", b.txDrops}, {"tx_missing", out},
		{"exact", b.exact()},
	}
}

// printDrops prints the table and the balance.
func (a *app) printDrops(s *api.GetStatsResponse) error {
	text := make(map[string]string)
	for _, r := range s.GetReasons() {
		text[r.GetName()] = r.GetText()
	}
	if a.json {
		return a.printJSON(dropsJSON(s, text))
	}
	t := newTable("PORT", "DIRECTION", "REASON", ">FRAMES", "MEANING")
	for _, p := range s.GetPorts() {
		for _, d := range p.GetRxDrops() {
			t.add(p.GetName(), "in", d.GetReason(), count(d.GetFrames()), text[d.GetReason()])
		}
		for _, d := range p.GetTxDrops() {
			t.add(p.GetName(), "out", d.GetReason(), count(d.GetFrames()), text[d.GetReason()])
		}
	}
	t.print(a.out, "no drops")
	a.printBalance(s)
	return nil
}

// printBalance prints the sums over all ports, and names the ports that are
// out of balance.
func (a *app) printBalance(s *api.GetStatsResponse) {
	sum, exact := sumUp(s)
	in, out := sum.missing()
	fmt.Fprintf(a.out, "\nbalance: rx + copies = outputs + drops: %s (%s + %s = %s + %s)\n", verdict(in, exact),
		count(sum.rx), count(sum.copies), count(sum.outputs), count(sum.rxDrops))
	fmt.Fprintf(a.out, "balance: offered + segments = tx + joined + drops: %s (%s + %s = %s + %s + %s)\n", verdict(out, exact),
		count(sum.offered), count(sum.segments), count(sum.tx), count(sum.joined), count(sum.txDrops))
	for _, p := range s.GetPorts() {
		if b := balanceOf(p); !b.exact() {
			in, out := b.missing()
			fmt.Fprintf(a.out, "port %s is out of balance by %d and %d frames: this is a bug, please report it\n", p.GetName(), in, out)
		}
	}
}

// sumUp adds up all ports, and reports whether each is exact by itself.
func sumUp(s *api.GetStatsResponse) (sum balance, exact bool) {
	exact = true
	for _, p := range s.GetPorts() {
		b := balanceOf(p)
		sum.add(b)
		exact = exact && b.exact()
	}
	return sum, exact
}

func verdict(missing int64, exact bool) string {
	switch {
	case missing != 0:
		return fmt.Sprintf("%+d frames", missing)
	case !exact:
		return "in sum only"
	}
	return "exact"
}

func dropsJSON(s *api.GetStatsResponse, text map[string]string) object {
	ports := make([]object, 0, len(s.GetPorts()))
	for _, p := range s.GetPorts() {
		b := balanceOf(p)
		ports = append(ports, object{{"name", p.GetName()}, {"in", dropList(p.GetRxDrops(), text)}, {"out", dropList(p.GetTxDrops(), text)}, {"balance", b.json()}})
	}
	sum, exact := sumUp(s)
	all := sum.json()
	all[len(all)-1].value = exact
	return object{{"ports", ports}, {"balance", all}}
}

func dropList(drops []*api.Drop, text map[string]string) []object {
	l := make([]object, 0, len(drops))
	for _, d := range drops {
		l = append(l, object{{"reason", d.GetReason()}, {"frames", d.GetFrames()}, {"meaning", text[d.GetReason()]}})
	}
	return l
}
