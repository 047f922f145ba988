package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/control/flows"
	"millrace/control/ovsdb/flowmodel"
	"millrace/dataplane/service/switchtest"
	"millrace/flowtable"
)

// clientRules is how many rules of flows a switch has.
func clientRules(sw *switchtest.Switch) int {
	n := 0
	sw.Tables().EachBrief(func(b flowtable.Brief) bool {
		if !sw.OwnRule(b) {
			n++
		}
		return true
	})
	return n
}

// TestFlowCommands: each command is in force when it returns, and says what is not.
func TestFlowCommands(t *testing.T) {
	sw, dir := serveRows(t)
	must(t, dir, "bridge", "add", "br0", "--pipeline", "flows")
	must(t, dir, "bridge", "add", "br8", "--pipeline", "flows")
	must(t, dir, "port", "add", "br0", "vm1", "--type", "dpdkvhostuser")
	file := filepath.Join(dir, "br0.flows")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"flow", "dump", "br8"}, 0, "bridge br8: no rules: it has no ports (`millrace flow list br8` shows the rows it is to run)\n"},
		{[]string{"flow", "dump", "br8", "--json"}, 0, `"rules": []`},
		{[]string{"flow", "dump", "br8", "--cache"}, 0, "bridge br8: no programs: it has no ports"},
		{[]string{"flow", "dump", "br8", "--cache", "--json"}, 0, `"programs": []`},
		{[]string{"flow", "dump", "br7"}, 1, "no such bridge"},
	} {
		r := run(t, append([]string{"--run-dir", dir}, tt.args...)...)
		if r.code != tt.code || !strings.Contains(r.out+r.err, tt.says) {
			t.Errorf("%v: code %d, want %d and %q\n%s%s", tt.args, r.code, tt.code, tt.says, r.out, r.err)
		}
	}
	const two = "# two\npriority=1 match='inport == \"vm1\"' actions=\"drop;\"\ntable=3 cookie=0x9 actions=\"drop;\"\n"
	write(two)
	for _, tt := range []struct {
		args []string
		code int
		says string // in what it prints, or in its error
		has  int    // rules then
	}{
		{[]string{"flow", "add", "br0", "ip4", "drop;", "--priority", "7", "--table", "2", "--cookie", "0x10"}, 0, "", 1},
		{[]string{"flow", "add", "br0", "ip4", "drop;", "--priority", "7", "--table", "2", "--cookie", "0x10"}, 1, "with --may-exist that is no error", 1},
		{[]string{"flow", "add", "br0", "ip4", "drop;", "--priority", "7", "--table", "2", "--cookie", "16", "--may-exist", "--json"}, 0, `"status": "active"`, 1},
		{[]string{"flow", "add", "br0", "ip4 &&", "drop;"}, 2, `match: column 7: expected`, 1},
		{[]string{"flow", "add", "br0", "ip4", "reg0[0] = chk_ecmp_nh();"}, 2, `actions: column 11: chk_ecmp_nh belongs to the OVN chassis, which this release does not have`, 1},
		{[]string{"flow", "add", "br0", "ip4", "drop;", "--table", "256"}, 2, "--table: 256 is not a table", 1},
		{[]string{"flow", "add", "br0", `inport == "vm9"`, "drop;"}, 1, `flow of bridge br0: inactive: match: column 11: port "vm9" is not on the bridge (its row stays`, 1},
		{[]string{"flow", "add", "br9", "1", "drop;"}, 1, `no bridge "br9" runs flows`, 1},
		{[]string{"flow", "list", "br0"}, 0, "inactive", 1},
		{[]string{"flow", "list", "br0", "--table", "2", "--file"}, 0, `table=2 priority=7 cookie=0x10 match="ip4" actions="drop;"`, 1},
		{[]string{"port", "add", "br0", "vm9", "--type", "dpdkvhostuser"}, 0, "", 2},
		{[]string{"flow", "replace", "br0", "-f", file, "--json"}, 0, `"added": 2`, 2},
		{[]string{"flow", "replace", "br0", "-f", file, "--json"}, 0, `"added": 0`, 2},
		{[]string{"flow", "replace", "br0", "-f", filepath.Join(dir, "none")}, 1, "no such file", 2},
		{[]string{"flow", "replace", "br0"}, 2, "-f: name the file", 2},
		{[]string{"flow", "check", "-f", file}, 0, `inport == "vm1": drop;`, 2},
		{[]string{"flow", "check", "ip4.src == 1.2.3.4 && tcp", "next;"}, 0, "    ip4.src == 1.2.3.4 && tcp: next(1);", 2},
		{[]string{"flow", "check", "ip4", "drop"}, 1, "actions: column 5: expected", 2},
		{[]string{"flow", "check", "ip4"}, 2, "say what to check", 2},
		{[]string{"flow", "del", "br0"}, 2, "say which flows", 2},
		{[]string{"flow", "del", "br0", "--all", "--table", "3"}, 2, "say which flows", 2},
		{[]string{"flow", "del", "br0", "--table", "3", "--json"}, 0, `"deleted": 1`, 1},
		{[]string{"flow", "del", "br0", "--all", "--json"}, 0, `"deleted": 1`, 0},
		{[]string{"flow", "del", "br0", "--all", "--json"}, 0, `"deleted": 0`, 0},
		{[]string{"flow", "list", "br0"}, 0, "no flows", 0},

		{[]string{"flow", "address-set", "add", "web", "10.0.0.1", "10.1.0.0/16"}, 0, "", 0},
		{[]string{"flow", "address-set", "add", "web", "10.0.0.x"}, 2, `ADDRESS: "10.0.0.x": column 1: expected a number`, 0},
		{[]string{"flow", "address-set", "add", "5", "10.0.0.1"}, 2, `NAME: no match can name "5"`, 0},
		{[]string{"flow", "port-group", "add", "a-b", "vm1"}, 2, `NAME: no match can name "a-b"`, 0},
		{[]string{"flow", "address-set", "add", "web", "fd00::1", "--json"}, 0, `"fd00::1"`, 0},
		{[]string{"flow", "address-set", "remove", "web", "10.0.0.1"}, 0, "", 0},
		{[]string{"flow", "address-set", "list"}, 0, "10.1.0.0/16 fd00::1", 0},
		{[]string{"flow", "port-group", "add", "pg", "vm1"}, 0, "", 0},
		{[]string{"flow", "meter", "set", "slow", "--kbps", "100"}, 0, "", 0},
		{[]string{"flow", "meter", "set", "slow"}, 2, "give the meter a rate", 0},
		{[]string{"flow", "group", "set", "g", `2:outport = "vm1"; output;`, "drop;"}, 0, "", 0},
		{[]string{"flow", "group", "set", "g", `outport = ;`}, 2, "actions: column 11", 0},
		{[]string{"flow", "add", "br0", "ip4.src == $web && inport == @pg", `meter("slow"); group("g");`}, 0, "", 1},
		{[]string{"flow", "dump", "br0"}, 0, `inport == @pg && ip4.src == $web  meter("slow"); group("g");`, 1},
		{[]string{"flow", "trace", "br0", "vm1", "ip4.src=10.1.2.3"}, 0, `inport == @pg && ip4.src == $web`, 1},
		{[]string{"flow", "meter", "del", "slow"}, 0, "", 0},
		{[]string{"flow", "meter", "del", "slow"}, 1, "no such meter: slow", 0},
		{[]string{"flow", "meter", "del", "slow", "--if-exists"}, 0, "", 0},
		{[]string{"flow", "meter", "set", "slow", "--pktps", "5", "--json"}, 0, `"unit": "pktps"`, 1},
		{[]string{"flow", "group", "list"}, 0, "NAME  WEIGHT  ACTIONS                   HASH FIELDS  PROBLEM\ng          1  drop;\n           2  outport = \"vm1\"; output;\n", 1},
		{[]string{"flow", "group", "list", "--json"}, 0, "{\n        \"weight\": 2,\n        \"actions\": \"outport = \\\"vm1\\\"; output;\"\n      }", 1},
		{[]string{"bridge", "list"}, 0, "flows", 1},
		{[]string{"show"}, 0, "flows:", 1},
		{[]string{"bridge", "set", "br0", "--pipeline", "nonsense"}, 2, "is neither learning nor flows", 1},
		{[]string{"bridge", "set", "br0", "--pipeline", "learning"}, 0, "", 0},
	} {
		r := run(t, append([]string{"--run-dir", dir}, tt.args...)...)
		if r.code != tt.code || !strings.Contains(r.out+r.err, tt.says) {
			t.Errorf("%s: exit code %d, want %d\n%s%s\nwant in it %s", strings.Join(tt.args, " "), r.code, tt.code, r.out, r.err, tt.says)
		}
		if got := clientRules(sw); got != tt.has {
			t.Errorf("after %s: %d rules, want %d", strings.Join(tt.args, " "), got, tt.has)
		}
	}
	write("priority=1 match='inport == \"vm7\"' actions=\"drop;\"\n\ntable=3 actions=\"drop\"\n")
	r := run(t, "--run-dir", dir, "flow", "replace", "br0", "-f", file)
	if want := file + ":3:22: expected ';'"; r.code != 1 || !strings.Contains(r.err, want) || !strings.Contains(must(t, dir, "flow", "list", "br0"), "web") {
		t.Errorf("a file with an error: exit code %d\n%s\nwant %s", r.code, r.err, want)
	}
	must(t, dir, "bridge", "set", "br0", "--pipeline", "flows")
	write("priority=1 match='inport == \"vm7\"' actions=\"drop;\"\n\ntable=3 actions=\"drop;\"\n")
	r = run(t, "--run-dir", dir, "flow", "replace", "br0", "-f", file)
	if want := file + `:1: inactive: match: column 11: port "vm7" is not on the bridge`; r.code != 1 || !strings.Contains(r.err, want) || clientRules(sw) != 1 {
		t.Errorf("a flow without its port: exit code %d, %d rules\n%s\nwant %s", r.code, clientRules(sw), r.err, want)
	}
}

// TestFlowShortfalls: lines of a file that are not in force for one reason are told
// together, and lines that say the same word for word are told each.
func TestFlowShortfalls(t *testing.T) {
	file := "match='inport == \"vm7\"' actions=\"drop;\"\n# vm7 is not there\n"
	for range 7 {
		file += "actions=\"next;\"\n"
	}
	file += "actions=\"drop;\"\n"
	lines, err := flows.ReadFile(strings.NewReader(file), "f")
	if err != nil {
		t.Fatal(err)
	}
	var rows []*flowmodel.Flow
	for i := range lines {
		r, inactive, why := lines[i].Flow, flowmodel.FlowStatusInactive, "there is nothing"
		r.Status, r.Error = &inactive, &why
		switch i {
		case 0:
			why = "no port"
		case 8:
			r.Status, r.Error = nil, nil
		}
		rows = append(rows, &r)
	}
	slices.Reverse(rows)
	var got []string
	for _, s := range shortfalls(append(rows, &flowmodel.Flow{Match: "somebody else's"}), lines) {
		got = append(got, s.at("f"))
	}
	want := []string{
		"f:1: inactive: no port",
		"f:3: inactive: there is nothing (7 flows: lines 3, 4, 5, 6, 7 and 2 more)",
		"f:10: not looked at yet: does control run?",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestFlowsWithoutDatabase: a server without the Millrace database is said to be one.
func TestFlowsWithoutDatabase(t *testing.T) {
	_, dir := serveFake(t)
	serveDatabases(t, dir, openVSwitch(dir))
	r := run(t, "--run-dir", dir, "flow", "list")
	if r.code != 1 || !strings.Contains(r.err, "does not have the database Millrace") || !strings.Contains(r.err, "ovsdb-tool create") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
}
