package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"millrace/dataplane"
	"millrace/dataplane/sys"
)

// switchOptions say how to make a switch.
type switchOptions = dataplane.Options

// switchFlags are the flags of run and of dataplane that make the switch.
type switchFlags struct {
	cpus     string
	poll     string
	cacheMiB int
	fresh    bool
}

func (f *switchFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.cpus, "cpus", "", "CPUs of the workers, such as 2,4-6 (default: all that we may use but the first)")
	fs.StringVar(&f.poll, "poll", string(dataplane.PollAdaptive), "what workers without traffic do: adaptive (sleep) or busy (spin)")
	fs.IntVar(&f.cacheMiB, "cache-memory", 0, "MiB that the workers' flow caches may take together, from 4 to 1000 each (default a sixteenth of the machine's memory)")
	fs.BoolVar(&f.fresh, "fresh", false, "begin without the ports of the last run in this run directory (run: control adds those in the database)")
	complete(cmd, "poll", string(dataplane.PollAdaptive), string(dataplane.PollBusy))
}

// args are the flags again, for the child. A restarted child is never fresh.
func (f *switchFlags) args(fresh bool) []string {
	args := []string{"--poll", f.poll, "--cache-memory", strconv.Itoa(f.cacheMiB)}
	if f.cpus != "" {
		args = append(args, "--cpus", f.cpus)
	}
	if fresh {
		args = append(args, "--fresh")
	}
	return args
}

// options checks the flags.
func (f *switchFlags) options(cmd *cobra.Command) (switchOptions, error) {
	allowed, err := sys.AllowedCPUs()
	if err != nil {
		return switchOptions{}, err
	}
	cpus, err := workerCPUs(f.cpus, allowed)
	if err != nil {
		return switchOptions{}, usage(cmd, "--cpus: %w", err)
	}
	o := switchOptions{CPUs: cpus, Allowed: allowed, Poll: dataplane.PollMode(f.poll), CacheMemory: uint64(f.cacheMiB) << 20}
	switch {
	case o.Poll != dataplane.PollBusy && o.Poll != dataplane.PollAdaptive:
		return o, usage(cmd, "--poll: %q is neither adaptive nor busy", f.poll)
	case f.cacheMiB < 0 || f.cacheMiB > 1<<20:
		return o, usage(cmd, "--cache-memory: %d is not in 0..%d", f.cacheMiB, 1<<20)
	}
	return o, nil
}

// complete offers words for a flag on the shell's completion key.
func complete(cmd *cobra.Command, flag string, words ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // fails for flags that there are not: a test finds out
}
