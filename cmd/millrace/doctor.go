package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"millrace/dataplane/afxdp"
	"millrace/dataplane/api"
	"millrace/doctor"
)

// errWarnings says that doctor has found warnings, and no problem.
var errWarnings = errors.New("there are warnings")

func (a *app) doctorCmd() *cobra.Command {
	var db dbFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine the machine and the switch: what is wrong, and what helps",
		Long: `Examines the kernel, the rights and limits of the switch, the CPUs of its workers,
memory, other switches on the machine, network devices behind ports, the processes,
the database and the ports. Each finding has a grade and what helps:

  problem  something does not work
  warning  costs speed, or will fail one day
  unknown  could not be looked at, and why
  notice   could be better for some
  ok       shown with --all

It changes nothing. It runs also without a switch, before the first start, and
without root, and says what it could not look at.

Exit codes:

  0  nothing worse than a notice
  1  there are problems
  5  there are warnings, and no problem`,
		Example: `  millrace doctor
  millrace doctor --all
  millrace doctor --json | jq -r '.findings[] | select(.grade == "problem") | .what'`,
		Args: exactly(),
	}
	db.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "also show what is as it should be")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		p := &doctor.Patient{Tree: os.DirFS("/"), Root: os.Geteuid() == 0, Devices: askDevice}
		a.askSwitch(ctx, &db, p)
		found := doctor.Examine(p)
		worst := doctor.Worst(found)
		if a.json {
			if err := a.printJSON(object{{"worst", worst}, {"findings", found}}); err != nil {
				return err
			}
		} else {
			printFindings(a.out, found, all)
		}
		return judge(worst, found)
	}
	return cmd
}

// judge is the error by which doctor ends.
func judge(worst doctor.Grade, found []doctor.Finding) error {
	n := 0
	for _, f := range found {
		if f.Grade == worst {
			n++
		}
	}
	switch worst {
	case doctor.Problem:
		return errors.New(plural(n, "problem"))
	case doctor.Warning:
		return fmt.Errorf("%w: %s", errWarnings, plural(n, "warning"))
	}
	return nil
}

// askDevice is doctor.Patient.Devices.
func askDevice(name string) (doctor.Device, error) {
	f, err := afxdp.Look(name)
	if err != nil {
		return doctor.Device{}, err
	}
	return doctor.Device{Driver: f.Driver, Queues: f.Queues, Most: f.Most, InTheWay: f.InTheWay}, nil
}

// askSwitch puts what the switch says into p.
func (a *app) askSwitch(ctx context.Context, f *dbFlags, p *doctor.Patient) {
	h, err := a.examine(ctx, f)
	if err != nil {
		p.Absent = err.Error()
		return
	}
	if h.info == nil {
		p.Absent = "the dataplane does not answer, others do"
		if len(h.problems) > 0 {
			p.Absent = h.problems[0].what
		}
		return
	}
	p.Switch = &doctor.Switch{PID: int(h.info.GetPid()), Database: h.db.endpoint}
	for _, c := range h.info.GetWorkers() {
		p.Switch.Workers = append(p.Switch.Workers, int(c))
	}
	for _, s := range h.problems {
		p.Switch.Problems = append(p.Switch.Problems, doctor.Finding{Grade: doctor.Problem, What: s.what, Remedy: s.remedy})
	}
	if err := a.askPorts(ctx, p.Switch); err != nil {
		p.Switch.Problems = append(p.Switch.Problems, doctor.Finding{Grade: doctor.Problem, What: err.Error()})
	}
}

// roomless are the reasons of frames that were lost for want of room or time.
var roomless = map[string]bool{"tx_ring_full": true, "tx_busy": true, "rx_ring_full": true, "rx_no_buffer": true, "slow_path_busy": true}

// askPorts asks for ports and what they have lost.
func (a *app) askPorts(ctx context.Context, s *doctor.Switch) error {
	c, err := api.Dial(ctx, a.runDir)
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.ListPorts(ctx, &api.ListPortsRequest{})
	if err != nil {
		return err
	}
	stats, err := c.GetStats(ctx, &api.GetStatsRequest{})
	if err != nil {
		return err
	}
	by := map[string]*api.PortStats{}
	for _, p := range stats.GetPorts() {
		by[p.GetName()] = p
	}
	for _, p := range list.GetPorts() {
		st := by[p.GetSpec().GetName()]
		port := doctor.Port{
			Name: p.GetSpec().GetName(), Type: p.GetSpec().GetType(), Link: word(p.GetState().GetLink()),
			Reason: p.GetState().GetReason(), How: p.GetState().GetHow(), Received: st.GetRxFrames() + st.GetOffered(),
		}
		if d := p.GetState().GetDevice(); d != nil {
			port.Device, port.MTU = port.Name, int(d.GetMtu())
		}
		for _, drops := range [][]*api.Drop{st.GetRxDrops(), st.GetTxDrops()} {
			for _, d := range drops {
				if roomless[d.GetReason()] {
					port.Dropped += d.GetFrames()
				}
			}
		}
		s.Ports = append(s.Ports, port)
	}
	return nil
}

// printFindings prints a finding in a line or two, and how many were as they should be.
func printFindings(w io.Writer, found []doctor.Finding, all bool) {
	good := 0
	for _, f := range found {
		if f.Grade == doctor.OK && !all {
			good++
			continue
		}
		fmt.Fprintf(w, "%-8s %s: %s\n", f.Grade, f.Check, f.What)
		if f.Remedy != "" {
			fmt.Fprintf(w, "%-8s -> %s\n", "", f.Remedy)
		}
	}
	if good > 0 {
		fmt.Fprintf(w, "%-8s %d more (--all shows them)\n", doctor.OK, good)
	}
}
