package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the release of this program",
		Long: `Prints the release of this program, the version of the dataplane API that it
speaks, and what it was built with. The release of a running switch, which may
be another one, is in the first line of ` + "`millrace show`" + `.`,
		Example: `  millrace version
  millrace version --json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(object{{"version", a.version}, {"api", api.Version()}, {"revision", revision()}, {"go", runtime.Version()}, {"os", runtime.GOOS}, {"arch", runtime.GOARCH}})
			}
			fmt.Fprintf(a.out, "millrace %s (API %s, %s, %s/%s)\n", a.version, api.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

// revision is the commit that the program was built from, if Go knows it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
