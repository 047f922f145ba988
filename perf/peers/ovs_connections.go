package peers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ReplaceGroups makes the groups of a text in the language of ovs-ofctl(8), one a
// line, the only ones of a bridge. Flows that speak of others go.
func (o *OVSDPDK) ReplaceGroups(ctx context.Context, bridge, groups string) error {
	if _, err := o.Ofctl(ctx, "-O", "OpenFlow15", "del-groups", bridge); err != nil {
		return err
	}
	path := filepath.Join(o.dir, "groups")
	if err := os.WriteFile(path, []byte(groups), 0o600); err != nil {
		return err
	}
	_, err := o.Ofctl(ctx, "-O", "OpenFlow15", "add-groups", bridge, path)
	return err
}

// SetConnectionsMax says how many connections there may be. A bridge must be there.
func (o *OVSDPDK) SetConnectionsMax(ctx context.Context, n int) error {
	_, err := o.Appctl(ctx, "dpctl/ct-set-maxconns", strconv.Itoa(n))
	return err
}

// IgnoreSequenceNumbers has TCP's windows not checked.
func (o *OVSDPDK) IgnoreSequenceNumbers(ctx context.Context) error {
	_, err := o.Appctl(ctx, "dpctl/ct-disable-tcp-seq-chk")
	return err
}

// CountConnections is how many connections there are.
func (o *OVSDPDK) CountConnections(ctx context.Context) (int, error) {
	out, err := o.Appctl(ctx, "dpctl/ct-get-nconns")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return 0, fmt.Errorf("count connections: dpctl/ct-get-nconns printed %q", out)
	}
	return n, nil
}

// CountStates counts connections by their protocol and, of TCP, state, such as
// "tcp ESTABLISHED". It takes a while if there are many.
func (o *OVSDPDK) CountStates(ctx context.Context) (map[string]int, error) {
	out, err := o.Appctl(ctx, "dpctl/dump-conntrack")
	if err != nil {
		return nil, err
	}
	return parseConnections(out), nil
}

// parseConnections reads the output of dpctl/dump-conntrack.
func parseConnections(out string) map[string]int {
	states := map[string]int{}
	for line := range strings.Lines(out) {
		kind, rest, ok := strings.Cut(strings.TrimSpace(line), ",orig=(")
		if !ok {
			continue
		}
		if _, state, ok := strings.Cut(rest, "protoinfo=(state="); ok {
			state, _, _ = strings.Cut(state, ")")
			kind += " " + state
		}
		states[kind]++
	}
	return states
}

// FlushConnections removes all connections.
func (o *OVSDPDK) FlushConnections(ctx context.Context) error {
	_, err := o.Appctl(ctx, "dpctl/flush-conntrack")
	return err
}
