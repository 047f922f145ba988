package control

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A step is one command that people and plugins run. DB, LOCK, SCHEMA, BACKUP
// stand for the endpoint and files; a name that ends in ! must fail.
type step struct {
	command string
	stdin   string // file
	save    string // file for the output
	unlike  bool   // what it prints is not compared
}

// steps are what the first item of acceptance of the database lists.
func steps() []step {
	var out []step
	for _, c := range []string{
		"init", "show", "add-br br0 -- set bridge br0 datapath_type=netdev", "--may-exist add-br br0", "add-br! br0", "br-exists br0", "br-exists! nobr",
		"add-port br0 p1 -- set interface p1 type=dpdkvhostuserclient options:vhost-server-path=/tmp/p1",
		"add-port! br0 p1", "--may-exist add-port br0 p1 -- set interface p1 type=dpdkvhostuserclient",
		"get interface p1 ofport link_state error admin_state type options", "list-ports br0", "list-ifaces br0", "port-to-br p1", "iface-to-br p1", "list-br",
		"set port p1 tag=7 trunks=1,2", "get port p1 tag trunks", "clear port p1 tag trunks", "get port p1 tag trunks", "set! port p1 tag=9999", "get! port p1 nonsense",
		"set bridge br0 other_config:mac-aging-time=20 flood_vlans=7", "remove bridge br0 other_config mac-aging-time", "get bridge br0 other_config flood_vlans",
		"add bridge br0 external_ids a=1 b=2", "br-get-external-id br0", "br-set-external-id br0 a 3", "br-get-external-id br0 a",
		"--columns=name,type,ofport,mtu,admin_state,link_state list interface p1", "--columns=name,type find interface type=dpdkvhostuserclient", "--bare --columns=name find port tag=7",
		"--if-exists get port nobody tag", "--if-exists set port nobody tag=1",
		"-- --id=@m create mirror name=m select-all=true -- add bridge br0 mirrors @m", "--columns=name,select_all list mirror", "clear bridge br0 mirrors", "list mirror",
		"--id=@q create QoS type=linux-htb queues:0=@k -- --id=@k create Queue other_config:max-rate=1 -- set port p1 qos=@q", "--columns=other_config list Queue",
		"clear port p1 qos -- --all destroy QoS -- --all destroy Queue", "list QoS", "destroy! QoS nobody",
		"wait-until interface p1 ofport=1", "get Open_vSwitch . dpdk_initialized cur_cfg next_cfg",
		"set-manager ptcp:0:127.0.0.1 punix:RUN/extra.sock", "get-manager", "--db=unix:RUN/extra.sock list-br", "del-manager", "get-manager",
		"set-ssl /k /c /a", "get-ssl", "del-ssl", "set-fail-mode br0 secure", "get-fail-mode br0", "set-controller br0 tcp:127.0.0.1", "get-controller br0",
		"emer-reset", "get-controller br0", "get-fail-mode br0", "comment hello", "--timeout=1 wait-until! interface p1 ofport=77",
		"add-port br0 p2 -- set interface p2 type=dpdkvhostuserclient options:vhost-server-path=/tmp/p2", "del-port p1", "--if-exists del-port p1", "del-port! p1", "list-ports br0", "show",
	} {
		out = append(out, step{command: "ovs-vsctl " + c})
	}
	for _, c := range []step{
		{command: "list-dbs DB"}, {command: "get-schema-version DB"}, {command: "get-schema-cksum DB"}, {command: "list-tables DB"}, {command: "list-columns DB Open_vSwitch Manager"}, {command: "get-schema DB", unlike: true},
		{command: "dump DB Open_vSwitch Interface name type ofport"}, {command: "dump DB Open_vSwitch Port name tag"}, {command: "dump DB _Server Database name model connected leader", unlike: true},
		{command: "wait DB Open_vSwitch connected"}, {command: "query DB [\"Open_vSwitch\",{\"op\":\"select\",\"table\":\"Bridge\",\"where\":[],\"columns\":[\"name\"]}]"},
		{command: "transact DB [\"Open_vSwitch\",{\"op\":\"update\",\"table\":\"Bridge\",\"where\":[],\"row\":{\"external_ids\":[\"map\",[[\"t\",\"1\"]]]}}]"},
		{command: "transact DB [\"Open_vSwitch\",{\"op\":\"delete\",\"table\":\"Bridge\",\"where\":[]},{\"op\":\"abort\"}]", unlike: true},
		{command: "needs-conversion DB SCHEMA"}, {command: "backup DB", save: "backup", unlike: true},
	} {
		c.command = "ovsdb-client " + c.command
		out = append(out, c)
	}
	return append(out,
		step{command: "ovs-vsctl del-port p2"}, step{command: "ovs-vsctl list-ports br0"},
		step{command: "ovsdb-client --force restore DB", stdin: "backup"},
		step{command: "ovs-vsctl add-port br0 p3 -- set interface p3 type=dpdkvhostuserclient options:vhost-server-path=/tmp/p3"},
		step{command: "ovs-vsctl list-ports br0"}, step{command: "ovsdb-client convert DB SCHEMA"},
		step{command: "ovs-vsctl del-br br0"}, step{command: "ovs-vsctl --if-exists del-br br0"}, step{command: "ovs-vsctl del-br! br0"}, step{command: "ovs-vsctl list-br"},
		step{command: "ovs-vsctl get Open_vSwitch . bridges"})
}

// anyUUID is what rows are named by, and differs.
func anyUUID() *regexp.Regexp {
	return regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
}

// do runs a step and returns what came of it: whether it succeeded, and the
// lines that it printed, sorted.
func (r *rig) do(s step) string {
	r.t.Helper()
	fields := strings.Fields(strings.NewReplacer("DB", r.endpoint(), "SCHEMA", schemaFile, "RUN", r.dir).Replace(s.command))
	fails := slices.IndexFunc(fields, func(f string) bool { return strings.HasSuffix(f, "!") })
	if fails >= 0 {
		fields[fails] = strings.TrimSuffix(fields[fails], "!")
	}
	args := []string{"--timeout=60"}
	if fields[0] == "ovs-vsctl" {
		args = append(args, "--db="+r.endpoint())
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*patience)
	defer cancel()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, fields[0], append(args, fields[1:]...)...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if s.stdin != "" {
		f, err := os.Open(r.file(s.stdin))
		if err != nil {
			r.t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	err := cmd.Run()
	if (err != nil) != (fails >= 0) {
		r.t.Errorf("%s: %v\n%s%s", s.command, err, &out, &stderr)
	}
	if s.save != "" {
		if err := os.WriteFile(r.file(s.save), out.Bytes(), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	text := strings.ReplaceAll(anyUUID().ReplaceAllString(out.String(), "UUID"), r.dir, "RUN")
	if s.unlike {
		text = ""
	}
	lines := strings.Split(text, "\n")
	slices.Sort(lines) // the clients print in the order of their hash tables
	return fmt.Sprintf("failed %v, prints\n%s", err != nil, strings.Join(lines, "\n"))
}

// TestAcceptance runs the same commands of stock clients against our database
// server and against ovsdb-server, with control following either: what they
// print and whether they succeed is the same, and so is the switch in the end.
func TestAcceptance(t *testing.T) {
	ours, stock := newEmbeddedRig(t), newRig(t)
	for _, s := range steps() {
		got, want := ours.do(s), stock.do(s)
		if got != want {
			t.Errorf("%s:\n ours %s\nstock %s", s.command, got, want)
		}
		if strings.HasPrefix(s.command, "ovs-vsctl") && ours.ports() != stock.ports() {
			t.Errorf("%s: the switch has %q with our server, %q with ovsdb-server", s.command, ours.ports(), stock.ports())
		}
	}
	for _, r := range []*rig{ours, stock} {
		if cur, next := r.vsctl("--no-wait", "get", "Open_vSwitch", ".", "cur_cfg"), r.vsctl("--no-wait", "get", "Open_vSwitch", ".", "next_cfg"); cur != next {
			t.Errorf("cur_cfg %s does not follow next_cfg %s", cur, next)
		}
	}
}
