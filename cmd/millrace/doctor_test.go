package main

import (
	"encoding/json"
	"strings"
	"testing"

	"millrace/dataplane"
	"millrace/doctor"
)

// TestDoctor: findings about the switch are among those about the machine, exit codes
// are by the worst, and JSON says the same.
func TestDoctor(t *testing.T) {
	sw, dir := serveRows(t)
	must(t, dir, "port", "add", "br0", "vm1", "--type", "dpdkvhostuser")
	sw.SetState("vm1", dataplane.DeviceState{Link: dataplane.LinkBroken, Reason: "a ring is nonsense"})
	r := run(t, "--run-dir", dir, "doctor", "--all")
	if r.code != exitError || !strings.Contains(r.err, "problem") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	for _, want := range []string{"problem  ports: port vm1: broken: a ring is nonsense\n         -> the peer has to reset or reconnect\n", " kernel: Linux ", " cpu isolation: "} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in\n%s", want, r.out)
		}
	}
	j := run(t, "--run-dir", dir, "doctor", "--json")
	var got struct {
		Worst    doctor.Grade
		Findings []doctor.Finding
	}
	if err := json.Unmarshal([]byte(j.out), &got); err != nil || j.code != exitError || got.Worst != doctor.Problem || len(got.Findings) < len(doctor.Checks()) {
		t.Errorf("exit code %d, %v: %+v", j.code, err, got)
	}
}

// TestDoctorAlone: without a switch it says what it could not look at.
func TestDoctorAlone(t *testing.T) {
	r := run(t, "--run-dir", t.TempDir(), "doctor")
	if !strings.Contains(r.out, "unknown  ports: how ports are is not known: no dataplane answers") || !strings.Contains(r.out, "no switch running") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.err)
	}
}

// TestDoctorCodes: the exit code follows from the worst grade.
func TestDoctorCodes(t *testing.T) {
	for grade, want := range map[doctor.Grade]int{doctor.OK: exitOK, doctor.Notice: exitOK, doctor.Warning: exitWarnings, doctor.Problem: exitError} {
		if got := exitCode(judge(grade, []doctor.Finding{{Grade: grade}})); got != want {
			t.Errorf("%s: exit code %d, want %d", grade, got, want)
		}
	}
}
