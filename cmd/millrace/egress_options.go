package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// optionLevel is the option of an egress port that is a flag of all commands.
const optionLevel = "log-level"

// optionMode says what an egress port carries: requests for connections, unless it is modeL3.
const (
	optionMode   = "mode"
	modeRequests = "requests"
	modeL3       = "l3"
)

// agentOptions reads the options of an egress port that are its agent's: the flags of
// egress agent by their names. Several values of a flag have blanks between them.
// All that is wrong is said.
func agentOptions(options map[string]string) (f *egressFlags, level zapcore.Level, problems []error) {
	f = &egressFlags{}
	cmd := &cobra.Command{Use: "egress"}
	f.add(cmd)
	f.listen = "" // there may be several ports
	servers := func(c rune) bool { return c == ',' || c == ' ' }
	level, problems = setOptions(cmd, options, servers, []string{"netns", "ready-fd"}, []string{"ca", "cert", "key", "token", "kubeconfig"})
	return f, level, checked(problems, f.check, cmd)
}

// l3Options reads the options of an egress port that carries packets: the flags of
// egress l3. Several servers have semicolons between them.
func l3Options(options map[string]string) (f *l3Flags, level zapcore.Level, problems []error) {
	f = &l3Flags{}
	cmd := &cobra.Command{Use: "egress"}
	f.add(cmd)
	f.listen = ""
	servers := func(c rune) bool { return c == ';' }
	level, problems = setOptions(cmd, options, servers, []string{"netns", "device", "ready-fd"}, []string{"private-key"})
	return f, level, checked(problems, f.check, cmd)
}

// checked adds to problems what a check of all flags finds, if there are none.
func checked(problems []error, check func(*cobra.Command) error, cmd *cobra.Command) []error {
	if len(problems) > 0 {
		return problems
	}
	if err := check(cmd); err != nil {
		return []error{fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "--", ""))}
	}
	return nil
}

// setOptions sets a command's flags by options. Some are never options, and some are
// paths; between says what stands between servers.
func setOptions(cmd *cobra.Command, options map[string]string, between func(rune) bool, never, paths []string) (level zapcore.Level, problems []error) {
	level = zap.InfoLevel
	for _, key := range slices.Sorted(maps.Keys(options)) {
		var err error
		flag, value := cmd.Flags().Lookup(key), options[key]
		switch {
		case key == optionMode: // it has said whose options these are
		case key == optionLevel:
			level, err = zapcore.ParseLevel(value)
		case flag == nil || slices.Contains(never, key):
			problems = append(problems, fmt.Errorf("unknown option %q", key[:min(len(key), 60)]))
		case slices.Contains(paths, key) && !filepath.IsAbs(value):
			err = errors.New("its value is not an absolute path: it names a file") // and is not told, for it may be the secret itself
		case key == "server":
			err = setFlag(flag, strings.FieldsFunc(value, between))
		case flag.Value.Type() == "stringArray":
			err = setFlag(flag, strings.Fields(value))
		default:
			err = setFlag(flag, []string{value})
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	return level, problems
}

// setFlag gives a flag values.
func setFlag(flag *pflag.Flag, values []string) error {
	for _, v := range values {
		if err := flag.Value.Set(v); err != nil {
			return err
		}
	}
	flag.Changed = true
	return nil
}

// checkAgentOptions says what is wrong with the options of an egress port that are its process's.
func checkAgentOptions(options map[string]string) (problems []error) {
	switch mode := options[optionMode]; mode {
	case "", modeRequests:
		_, _, problems = agentOptions(options)
	case modeL3:
		_, _, problems = l3Options(options)
	default:
		problems = []error{fmt.Errorf("%s=%q is neither %s nor %s", optionMode, mode[:min(len(mode), 60)], modeRequests, modeL3)}
	}
	return problems
}

// live are the options that a running agent follows. For others it starts anew.
func live(key string) bool {
	return slices.Contains([]string{"allow", "udp", "identifiers", optionLevel}, key)
}
