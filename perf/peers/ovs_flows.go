package peers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Configure sets keys of Open_vSwitch.other_config of a running switch, and
// returns when it has taken them.
func (o *OVSDPDK) Configure(ctx context.Context, config map[string]string) error {
	set := []string{"set", "Open_vSwitch", "."}
	for _, key := range sortedKeys(config) {
		set = append(set, fmt.Sprintf("other_config:%s=%q", key, config[key]))
	}
	_, err := o.Vsctl(ctx, set...)
	return err
}

// SetPrefixes says for which fields the first n tables of a bridge keep tries.
func (o *OVSDPDK) SetPrefixes(ctx context.Context, bridge string, n int, fields ...string) error {
	args := []string{"clear", "bridge", bridge, "flow_tables"}
	for i := range n {
		row := fmt.Sprintf("@t%d", i)
		args = append(args, "--", "--id="+row, "create", "Flow_Table", "prefixes="+strings.Join(fields, ","))
		args = append(args, "--", "set", "bridge", bridge, fmt.Sprintf("flow_tables:%d=%s", i, row))
	}
	_, err := o.Vsctl(ctx, args...)
	return err
}

// AddFlows adds the flows of a text in the language of ovs-ofctl(8), one a line,
// in one bundle: all or none, and no packet sees half of them.
func (o *OVSDPDK) AddFlows(ctx context.Context, bridge, flows string) error {
	path := filepath.Join(o.dir, "flows")
	if err := os.WriteFile(path, []byte(flows), 0o600); err != nil {
		return err
	}
	_, err := o.Ofctl(ctx, "--bundle", "add-flows", bridge, path)
	return err
}

// ReplaceFlows makes the flows of a text the only ones of a bridge, in one
// bundle.
func (o *OVSDPDK) ReplaceFlows(ctx context.Context, bridge, flows string) error {
	path := filepath.Join(o.dir, "flows")
	if err := os.WriteFile(path, []byte(flows), 0o600); err != nil {
		return err
	}
	_, err := o.Ofctl(ctx, "--bundle", "replace-flows", bridge, path)
	return err
}

// CountFlows is how many flows a bridge has, over all tables.
func (o *OVSDPDK) CountFlows(ctx context.Context, bridge string) (int, error) {
	out, err := o.Ofctl(ctx, "dump-aggregate", bridge)
	if err != nil {
		return 0, err
	}
	_, count, found := strings.Cut(out, "flow_count=")
	n, err := strconv.Atoi(strings.TrimSpace(count))
	if !found || err != nil {
		return 0, fmt.Errorf("count flows of %s: ovs-ofctl dump-aggregate printed %q", bridge, out)
	}
	return n, nil
}

// A DatapathFlows is what the poll-mode threads have cached: megaflows.
type DatapathFlows struct {
	Flows int
	Masks int // different ones among them: subtables to look into
}

// DatapathFlows counts megaflows and their masks.
func (o *OVSDPDK) DatapathFlows(ctx context.Context) (DatapathFlows, error) {
	out, err := o.Appctl(ctx, "dpctl/dump-flows", "-m")
	if err != nil {
		return DatapathFlows{}, err
	}
	return parseDatapathFlows(out), nil
}

var (
	// maskedField is NAME=VALUE or NAME=VALUE/MASK inside of a match.
	maskedField = regexp.MustCompile(`([a-z0-9_]+)=([^,/()]+)(/[^,()]+)?`)
	// plainField is NAME(VALUE) or NAME(VALUE/MASK).
	plainField = regexp.MustCompile(`([a-z0-9_]+)\(([^,=/()]+)(/[^,=()]+)?\)`)
)

// parseDatapathFlows reads the output of dpctl/dump-flows -m.
func parseDatapathFlows(out string) DatapathFlows {
	masks := map[string]bool{}
	n := 0
	for line := range strings.Lines(out) {
		match, _, ok := strings.Cut(line, ", packets:")
		if !ok {
			continue
		}
		if rest, found := strings.CutPrefix(match, "ufid:"); found {
			_, match, _ = strings.Cut(rest, ",")
		}
		mask := maskedField.ReplaceAllString(strings.TrimSpace(match), "$1=$3")
		masks[plainField.ReplaceAllString(mask, "$1($3)")] = true
		n++
	}
	return DatapathFlows{n, len(masks)}
}

// An UpcallState is how the revalidators see the datapath's flows.
type UpcallState struct {
	Flows, Limit int
}

// UpcallState reads upcall/show: the limit is what they think they can keep fresh.
func (o *OVSDPDK) UpcallState(ctx context.Context) (UpcallState, error) {
	out, err := o.Appctl(ctx, "upcall/show")
	if err != nil {
		return UpcallState{}, err
	}
	return parseUpcallState(out), nil
}

var upcallFlows = regexp.MustCompile(`flows\s*: \(current (\d+)\).*\(limit (\d+)\)`)

// parseUpcallState reads the output of upcall/show, for all datapaths together.
func parseUpcallState(out string) UpcallState {
	var s UpcallState
	for _, m := range upcallFlows.FindAllStringSubmatch(out, -1) {
		flows, _ := strconv.Atoi(m[1]) // digits, by the pattern
		limit, _ := strconv.Atoi(m[2])
		s.Flows += flows
		s.Limit = max(s.Limit, limit)
	}
	return s
}
