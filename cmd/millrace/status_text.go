package main

import (
	"fmt"
	"io"
	"strconv"
	"time"
)

// print prints one screen.
func (h *health) print(w io.Writer) {
	fmt.Fprintf(w, "millrace at %s: %s\n\n", h.runDir, h.verdict())
	t := newTable("PROCESS", ">PID", "STATE", "FOR", ">RESTARTS")
	for _, p := range h.processes {
		pid := "" // without commas: it is for kill
		if p.pid != 0 {
			pid = strconv.Itoa(p.pid)
		}
		t.add(p.name, pid, p.state, age(p.since), strconv.Itoa(p.restarts))
	}
	t.print(w, "no processes known")
	fmt.Fprintf(w, "\ndatabase: %s\n", h.databaseLine())
	c := h.ports
	fmt.Fprintf(w, "ports:    %s: %d up, %d waiting for a peer, %d broken; %s with an error\n", plural(c.all, "port"), c.up, c.waiting, c.broken, plural(c.failed, "row"))
	if line := flowTally(h.flows, false); line != "" {
		fmt.Fprintf(w, "flows:    %s\n", line)
	}
	fmt.Fprintln(w)
	if h.info != nil {
		h.printWorkers(w)
	}
	for i, p := range h.problems {
		if i == 0 {
			fmt.Fprintln(w, "\nproblems:")
		}
		fmt.Fprintf(w, "  %s\n", p.what)
		if p.remedy != "" {
			fmt.Fprintf(w, "      what helps: %s\n", p.remedy)
		}
	}
}

func (h *health) verdict() string {
	if len(h.problems) == 0 {
		return "all is well"
	}
	return plural(len(h.problems), "problem")
}

// age is how long ago something was; empty if nobody knows.
func age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(max(0, time.Since(t)))
}

// databaseLine says how the database is.
func (h *health) databaseLine() string {
	d := h.db
	line := d.endpoint
	if line == "" {
		line = "not known"
	}
	if d.embedded {
		line += ", embedded"
	}
	if d.size > 0 {
		line += ", " + count(uint64(d.size)) + " bytes"
	}
	switch {
	case d.offline:
		line += "; control works on what was wanted last"
	case d.connected:
		line += "; control connected for " + age(d.since)
		if !d.owner {
			line += ", without the lock"
		}
	default:
		line += "; control not connected"
	}
	if !d.reached {
		return line + "; not reached from here"
	}
	if d.current < d.next {
		return fmt.Sprintf("%s; change %d in force of %d", line, d.current, d.next)
	}
	return fmt.Sprintf("%s; change %d in force", line, d.current)
}

func (h *health) printWorkers(w io.Writer) {
	t := newTable("WORKER", ">QUEUES", ">LOAD", ">ASLEEP", ">FRAMES/S", ">CYCLES/FRAME")
	for i, wk := range h.load.now.GetWorkers() {
		l := h.load.load(i)
		t.add(fmt.Sprintf("CPU %d", wk.GetCpu()), fmt.Sprint(wk.GetQueues()), percent(l.busy), percent(l.asleep), short(h.framesPerSecond(i)), strconv.FormatFloat(l.cyclesPerFrame, 'f', 1, 64))
	}
	t.print(w, "no workers")
}

// framesPerSecond is the rate of worker i while it was watched.
func (h *health) framesPerSecond(i int) float64 {
	return ratio(float64(h.load.load(i).frames), h.load.length().Seconds())
}

// json is the report for programs.
func (h *health) json() object {
	processes, problems, workers := []object{}, []object{}, []object{}
	for _, p := range h.processes {
		processes = append(processes, object{{"name", p.name}, {"pid", p.pid}, {"state", p.state}, {"since", p.since}, {"restarts", p.restarts}})
	}
	for _, p := range h.problems {
		problems = append(problems, object{{"what", p.what}, {"remedy", p.remedy}})
	}
	if h.info != nil {
		for i, w := range h.load.now.GetWorkers() {
			l := h.load.load(i)
			workers = append(workers, object{{"cpu", w.GetCpu()}, {"queues", w.GetQueues()}, {"busy_share", l.busy}, {"asleep_share", l.asleep}, {"frames_per_second", h.framesPerSecond(i)}, {"cycles_per_frame", l.cyclesPerFrame}})
		}
	}
	d, c := h.db, h.ports
	return object{
		{"run_dir", h.runDir}, {"healthy", len(h.problems) == 0}, {"supervised", h.supervised}, {"processes", processes},
		{"database", object{
			{"endpoint", d.endpoint}, {"reached", d.reached}, {"embedded", d.embedded}, {"file_size", d.size}, {"control_connected", d.connected}, {"owner", d.owner},
			{"offline", d.offline}, {"since", d.since}, {"next_cfg", d.next}, {"cur_cfg", d.current}, {"bad_rows", d.badRows},
		}},
		{"ports", object{{"all", c.all}, {"up", c.up}, {"waiting", c.waiting}, {"broken", c.broken}, {"failed", c.failed}}},
		{"flows", flowsStatusJSON(h.flows)}, {"workers", workers}, {"problems", problems},
	}
}
