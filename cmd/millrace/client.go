package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

// How long a command waits for the dataplane.
const (
	callTimeout     = 10 * time.Second       // for a command in all, unless it follows something
	restartPatience = time.Second            // for one that has crashed and is being restarted
	completeTimeout = 500 * time.Millisecond // for names to offer on the completion key
)

// An action is what a command does with a running switch.
type action func(ctx context.Context, c *api.Client, args []string) error

// call makes an action a command's RunE, with a time limit.
func (a *app) call(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		return a.connect(ctx, cmd, args, do)
	}
}

// follow makes an action a command's RunE that lasts until it has enough, or
// the user has: that is no error.
func (a *app) follow(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := a.connect(cmd.Context(), cmd, args, do)
		if cmd.Context().Err() != nil {
			return nil
		}
		return err
	}
}

func (a *app) connect(ctx context.Context, cmd *cobra.Command, args []string, do action) error {
	c, err := api.Dial(ctx, a.runDir, api.Patience(restartPatience))
	if err != nil {
		return err
	}
	defer c.Close()
	return withNames(ofCommandLine(cmd, do(ctx, c, args)))
}

// withNames adds to the error of a name that there is not which command lists those
// that there are.
func withNames(err error) error {
	if errors.Is(err, api.ErrNoPort) || errors.Is(err, api.ErrNoBridge) {
		return fmt.Errorf("%w: `millrace show` lists bridges and ports", err)
	}
	return err
}

// ofCommandLine words the refusal of a field for those who typed a flag or an
// argument.
func ofCommandLine(cmd *cobra.Command, err error) error {
	var e *api.Error
	if !errors.As(err, &e) || !errors.Is(e.Kind, api.ErrInvalid) {
		return err
	}
	name := strings.ReplaceAll(e.Field[strings.LastIndex(e.Field, ".")+1:], "_", "-")
	if cmd.Flag(name) != nil {
		name = "--" + name
	} else {
		name = strings.ToUpper(name)
	}
	return usage(cmd, "%s%w", name, &api.Error{Kind: e.Kind, Text: strings.TrimPrefix(e.Text, e.Field)})
}

// names completes arguments and flags with names that the switch knows.
func (a *app) names(of action, collect *[]string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		c, err := api.Dial(ctx, a.runDir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		*collect = nil
		if of(ctx, c, args) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return *collect, cobra.ShellCompDirectiveNoFileComp
	}
}

// portNames completes with names of ports.
func (a *app) portNames() cobra.CompletionFunc {
	var names []string
	return a.names(func(ctx context.Context, c *api.Client, _ []string) error {
		r, err := c.ListPorts(ctx, &api.ListPortsRequest{})
		for _, p := range r.GetPorts() {
			names = append(names, p.GetSpec().GetName())
		}
		return err
	}, &names)
}

// bridgeNames completes with names of bridges.
func (a *app) bridgeNames() cobra.CompletionFunc {
	var names []string
	return a.names(func(ctx context.Context, c *api.Client, _ []string) error {
		r, err := c.ListBridges(ctx, &api.ListBridgesRequest{})
		for _, b := range r.GetBridges() {
			names = append(names, b.GetName())
		}
		return err
	}, &names)
}

// byPosition completes each argument in its own way, and nothing after them.
func byPosition(of ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(of) || of[len(args)] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return of[len(args)](cmd, args, start)
	}
}

// completeWith completes the value of a flag.
func completeWith(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, f) // fails for flags that there are not: a test finds out
}
