package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func (a *app) agentInstallCmd() *cobra.Command {
	var plugin, to string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put the CNI plugin where runtimes look for it",
		Long: `Copies the CNI plugin into a directory in one step: a runtime that looks there meanwhile
finds the old one or the new one. It is for images that have no other programs.`,
		Example: "  millrace agent install --plugin /bin/millrace-cni --to /host/opt/cni/bin",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			path := filepath.Join(to, filepath.Base(plugin))
			if err := installProgram(plugin, path); err != nil || !a.json {
				return err
			}
			return a.printJSON(object{{"path", path}})
		},
	}
	cmd.Flags().StringVar(&plugin, "plugin", "/bin/millrace-cni", "the plugin")
	cmd.Flags().StringVar(&to, "to", "/opt/cni/bin", "the directory")
	return cmd
}

// installProgram copies a program in one step.
func installProgram(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("install %s: %w", to, err)
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".millrace-")
	if err != nil {
		return fmt.Errorf("install %s: %w", to, err)
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o755), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("install %s: %w", to, err), os.Remove(out.Name()))
	}
	return nil
}
