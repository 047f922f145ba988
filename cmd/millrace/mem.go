package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) memCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "mem",
		Short: "Show what takes how much memory in the dataplane",
		Long: `Shows what takes how much memory in the dataplane, part by part. Tables and caches
are outside of Go's heap, which stays a few megabytes: a collection of it would hold
up the workers.

USED and OF are entries in use, and entries at most; a part without a bound of its own
grows until the memory is used up.

The last lines are of the whole process: resident is what the kernel counts, which
leaves out what has been reserved and not been touched; the machine is what there is,
or the least limit of the control groups that the process is in.`,
		Example: `  millrace mem
  millrace mem --json | jq '.uses | sort_by(-.bytes) | .[0]'`,
		Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *api.Client, _ []string) error {
			m, err := c.Flows.GetMemory(ctx, &api.GetMemoryRequest{})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(toJSON(m))
			}
			a.printMemory(m)
			return nil
		}),
	}
}

func (a *app) printMemory(m *api.GetMemoryResponse) {
	t := newTable("PART", ">MEMORY", ">USED", ">OF")
	total := uint64(0)
	for _, u := range m.GetUses() {
		used, capacity := "", ""
		if u.GetUsed() > 0 || u.GetCapacity() > 0 {
			used = count(u.GetUsed())
		}
		if u.GetCapacity() > 0 {
			capacity = count(u.GetCapacity())
		}
		total += u.GetBytes()
		t.add(u.GetPart(), size(u.GetBytes()), used, capacity)
	}
	t.add("total", size(total), "", "")
	t.print(a.out, "")
	fmt.Fprintf(a.out, "\nresident %s, Go heap %s (collected at %s), machine %s\n",
		size(m.GetResidentBytes()), size(m.GetHeapBytes()), size(m.GetHeapGoalBytes()), size(m.GetMachineBytes()))
}

// size shows bytes: three digits and a unit of 1024.
func size(n uint64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	x, i := float64(n), 0
	for ; x >= 1000 && i < len(units)-1; i++ {
		x /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	digits := 0
	switch {
	case x < 9.995:
		digits = 2
	case x < 99.95:
		digits = 1
	}
	return strconv.FormatFloat(x, 'f', digits, 64) + " " + units[i]
}
