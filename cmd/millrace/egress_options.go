package main

import (
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

// agentOptions reads the options of an egress port that are its agent's: the flags of
// egress agent by their names. Several values of a flag have blanks between them.
// All that is wrong is said.
func agentOptions(options map[string]string) (f *egressFlags, level zapcore.Level, problems []error) {
	f = &egressFlags{}
	cmd := &cobra.Command{Use: "egress"}
	f.add(cmd)
	f.listen, level = "", zap.InfoLevel // there may be several ports
	for _, key := range slices.Sorted(maps.Keys(options)) {
		var err error
		flag := cmd.Flags().Lookup(key)
		switch {
		case key == optionLevel:
			level, err = zapcore.ParseLevel(options[key])
		case flag == nil || key == "netns" || key == "ready-fd":
			problems = append(problems, fmt.Errorf("unknown option %q", key[:min(len(key), 60)]))
		case slices.Contains([]string{"ca", "cert", "key", "token", "kubeconfig"}, key) && !filepath.IsAbs(options[key]):
			err = fmt.Errorf("%q is not an absolute path", options[key][:min(len(options[key]), 60)])
		default:
			err = setFlag(flag, options[key])
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	if len(problems) == 0 {
		if err := f.check(cmd); err != nil {
			problems = append(problems, fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "--", "")))
		}
	}
	return f, level, problems
}

// setFlag gives a flag the values of an option.
func setFlag(flag *pflag.Flag, value string) error {
	values := []string{value}
	switch {
	case flag.Name == "server":
		values = strings.FieldsFunc(value, func(c rune) bool { return c == ',' || c == ' ' })
	case flag.Value.Type() == "stringArray":
		values = strings.Fields(value)
	}
	for _, v := range values {
		if err := flag.Value.Set(v); err != nil {
			return err
		}
	}
	flag.Changed = true
	return nil
}

// checkAgentOptions says what is wrong with the options of an agent.
func checkAgentOptions(options map[string]string) []error {
	_, _, problems := agentOptions(options)
	return problems
}

// live are the options that a running agent follows. For others it starts anew.
func live(key string) bool {
	return slices.Contains([]string{"allow", "udp", "identifiers", optionLevel}, key)
}
