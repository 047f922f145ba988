package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"millrace/control/bridge"
	"millrace/control/cni/attach"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

// Keys of external_ids of Port rows. Those but keySpec are for people.
const (
	keyOwner   = "owner" // whose rows they are: ours have the value owner
	keySpec    = "millrace-attachment"
	keySeen    = "millrace-netns"   // inode of the pod's network namespace, if the agent has seen it
	keyBoot    = "millrace-boot-id" // of the host, when the port was made
	keyPod     = "pod"
	keySandbox = "container-id"
	keyIfName  = "ifname"
	keyNetwork = "network"
	keyDevice  = "device-id" // of the device plugin, if there is one

	keyPlace = "millrace-directory" // of the interface, if it is not the attachment's alone (directory.go)

	owner = "millrace-cni"

	keyMAC = "attached-mac" // of Interface rows: the address of the pod's end
)

// tables are the rows that the agent reads.
func tables() []ovsdb.Table {
	return []ovsdb.Table{
		{Name: model.OpenvSwitchTable, Row: &model.OpenvSwitch{}, Watch: []string{"cur_cfg", "next_cfg"}},
		{Name: model.BridgeTable, Row: &model.Bridge{}, Watch: []string{"name"}},
		{Name: model.PortTable, Row: &model.Port{}, Watch: []string{"external_ids", "interfaces", "name", "qos", "tag", "trunks"}},
		{Name: model.InterfaceTable, Row: &model.Interface{}, Watch: []string{"error", "ifindex", "link_state", "name", "ofport", "status", "type"}},
		{Name: model.QoSTable, Row: &model.QoS{}, Watch: []string{"external_ids"}},
	}
}

// schema is read once: that takes longer than all the rest of a call.
var schema = sync.OnceValue(model.Schema)

// dial connects to the database.
func (a *agent) dial(ctx context.Context) (*ovsdb.Caller, error) {
	return ovsdb.Dial(ctx, ovsdb.Config{Endpoints: a.Endpoints, TLS: a.TLS, Schema: schema(), Tables: tables()})
}

// A record is an attachment as its row has it.
type record struct {
	attach.Attachment
	uuid  string // of the Port row
	text  string // keySpec
	netns uint64 // keySeen; 0: not seen
	boot  string
}

// parse reads a Port row: nil if it is not ours. Its names are not believed: they become parts of paths,
// and whoever can write to the database need not be able to remove files of the host.
func parse(uuid string, row *model.Port) (*record, error) {
	if row.ExternalIDs[keyOwner] != owner {
		return nil, nil
	}
	r := &record{uuid: uuid, text: row.ExternalIDs[keySpec], boot: row.ExternalIDs[keyBoot]}
	if err := attach.Decode([]byte(r.text), &r.Attachment); err != nil {
		return nil, fmt.Errorf("port %s: external_ids:%s: %w", row.Name, keySpec, err)
	}
	if err := r.CheckNames(); err != nil {
		return nil, fmt.Errorf("port %s: external_ids:%s: %w", row.Name, keySpec, err)
	}
	if r.Port() != row.Name {
		return nil, fmt.Errorf("port %s: external_ids:%s is that of port %s", row.Name, keySpec, r.Port())
	}
	r.netns, _ = strconv.ParseUint(row.ExternalIDs[keySeen], 10, 64)
	return r, nil
}

// port returns the Port row of that name, or nil.
func port(ctx context.Context, d *ovsdb.Caller, name string) (uuid string, row *model.Port, err error) {
	rows, err := d.Select(ctx, model.PortTable, is("name", name))
	if err != nil {
		return "", nil, err
	}
	uuid, row = first(rows)
	return uuid, row, nil
}

// first is the first of Port rows, or nil.
func first(rows []ovsdb.Change) (uuid string, row *model.Port) {
	if len(rows) == 0 {
		return "", nil
	}
	return rows[0].UUID, rows[0].Row.(*model.Port)
}

// records returns all attachments, by port. Rows that say they are ours and make
// no sense are left alone, and told of.
func (a *agent) records(ctx context.Context, d *ovsdb.Caller) ([]*record, error) {
	return a.recordsWith(ctx, d, includes(map[string]string{keyOwner: owner}))
}

// tenants returns the attachments that have a directory.
func (a *agent) tenants(ctx context.Context, d *ovsdb.Caller, dir string) ([]*record, error) {
	return a.recordsWith(ctx, d, includes(map[string]string{keyOwner: owner, keyPlace: dir}))
}

// recordsWith returns the attachments whose Port rows fulfil a condition.
func (a *agent) recordsWith(ctx context.Context, d *ovsdb.Caller, where []any) ([]*record, error) {
	rows, err := d.Select(ctx, model.PortTable, where)
	if err != nil {
		return nil, err
	}
	var list []*record
	for _, row := range rows {
		r, err := parse(row.UUID, row.Row.(*model.Port))
		if err != nil {
			a.Log.Warn("row of a pod's port is left alone: " + err.Error())
			continue
		}
		if r != nil {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(x, y *record) int { return cmp.Compare(x.Port(), y.Port()) })
	return list, nil
}

// columns of the Interface and Port rows of an attachment.
func (a *agent) columns(at *attach.Attachment, p place) (port, iface map[string]any, err error) {
	text, err := json.Marshal(at)
	if err != nil {
		return nil, nil, err
	}
	ids := map[string]string{
		keyOwner: owner, keySpec: string(text), keyBoot: a.BootID, keySandbox: at.ContainerID, keyIfName: at.IfName, keyNetwork: at.Network,
	}
	if at.Pod.Name != "" {
		ids[keyPod] = at.Pod.Namespace + "/" + at.Pod.Name
	}
	if at.DeviceID != "" {
		ids[keyDevice] = at.DeviceID
	}
	if n := inodeOf(at.Netns); n != 0 {
		ids[keySeen] = strconv.FormatUint(n, 10)
	}
	if p.let() {
		ids[keyPlace] = p.dir
	}
	port = map[string]any{"name": at.Port(), "external_ids": mapOf(ids), "tag": none(), "trunks": setOf(at.Trunk)}
	if at.VLAN != 0 {
		port["tag"] = at.VLAN
	}
	kind, options := interfaceOf(at, p)
	iface = map[string]any{
		"name": at.Port(), "type": kind, "options": mapOf(options), "mac": none(), "mtu_request": at.MTU,
		"external_ids": mapOf(map[string]string{keyOwner: owner, keyMAC: at.MAC}),
	}
	if at.Kind == attach.TAP {
		iface["mac"] = at.MAC
	}
	limitColumns(at, iface)
	return port, iface, nil
}

// interfaceOf is type and options of the Interface row.
func interfaceOf(at *attach.Attachment, p place) (kind string, options map[string]string) {
	options = map[string]string{}
	if at.Queues != 0 {
		options["n_rxq"] = strconv.Itoa(at.Queues)
	}
	switch at.Kind {
	case attach.TAP:
		options[bridge.KeyNetns], options[bridge.KeyDevice] = at.Netns, at.IfName
		options[bridge.KeyUp], options[bridge.KeyPersist] = "true", "true"
		return bridge.TypeTAP, options
	case attach.Veth:
		delete(options, "n_rxq")
		return bridge.TypeAFXDP, options
	}
	options["vhost-server-path"], options[bridge.KeyNoFollow] = p.short, "true" // the pod may write to its directory
	if p.owner.known {
		options[bridge.KeyPeerUID] = strconv.FormatUint(uint64(p.owner.UID), 10)
	}
	if !at.Server {
		return bridge.TypeVhostClient, options
	}
	options[bridge.KeyOwner] = fmt.Sprintf("%d:%d", p.owner.UID, p.owner.GID)
	if !p.owner.known {
		options[bridge.KeyMode] = "0666" // the directory is for the pod alone
	}
	return bridge.TypeVhostServer, options
}

// put makes the operations that give an attachment its rows.
func (a *agent) put(ctx context.Context, d *ovsdb.Caller, at *attach.Attachment, p place) ([]ovsdb.Op, error) {
	pc, ic, err := a.columns(at, p)
	if err != nil {
		return nil, err
	}
	rows, err := d.Read(ctx, nil, ovsdb.Query{Table: model.PortTable, Where: is("name", at.Port())}, ovsdb.Query{Table: model.BridgeTable, Where: is("name", at.Bridge)})
	if err != nil {
		return nil, err
	}
	add := insert(at, rows[1], pc, ic)
	uuid, old := first(rows[0])
	if old == nil {
		return add, nil
	}
	r, err := parse(uuid, old)
	if err != nil || r == nil {
		return nil, attach.Errorf(attach.CodeRefused, "port %s is somebody else's: `millrace port del %s` if it is not needed", at.Port(), at.Port())
	}
	if r.text == specOf(pc) && r.boot == a.BootID {
		return nil, nil
	}
	return append(remove(uuid, old), add...), nil
}

// specOf is the attachment in the columns of its Port row.
func specOf(port map[string]any) string {
	for _, pair := range port["external_ids"].([]any)[1].([]any) {
		if kv := pair.([]any); kv[0] == keySpec {
			return kv[1].(string)
		}
	}
	return ""
}

// insert makes the operations that add a port to its bridge, or to one that it makes if
// there is none.
func insert(at *attach.Attachment, bridges []ovsdb.Change, pc, ic map[string]any) []ovsdb.Op {
	pc["interfaces"] = []any{"named-uuid", "iface"}
	ops := append(qosRow(at, pc),
		ovsdb.Op{"op": "insert", "table": model.InterfaceTable, "uuid-name": "iface", "row": ic},
		ovsdb.Op{"op": "insert", "table": model.PortTable, "uuid-name": "port", "row": pc})
	if len(bridges) > 0 {
		id := []any{"uuid", bridges[0].UUID}
		expect := ovsdb.Op{"op": "wait", "table": model.BridgeTable, "where": is("_uuid", id), "columns": []string{"name"}, "until": "==", "rows": []any{map[string]any{"name": at.Bridge}}, "timeout": 0}
		join := ovsdb.Op{"op": "mutate", "table": model.BridgeTable, "where": is("_uuid", id), "mutations": []any{[]any{"ports", "insert", []any{"named-uuid", "port"}}}}
		return append([]ovsdb.Op{expect}, append(ops, join)...)
	}
	return append(ops, newBridge(at.Bridge)...)
}

// newBridge makes the operations that add a bridge with the port "port" and, as
// ovs-vsctl does, one of its own.
func newBridge(name string) []ovsdb.Op {
	return []ovsdb.Op{
		{"op": "insert", "table": model.InterfaceTable, "uuid-name": "ownif", "row": map[string]any{"name": name, "type": bridge.TypeInternal}},
		{"op": "insert", "table": model.PortTable, "uuid-name": "own", "row": map[string]any{"name": name, "interfaces": []any{"named-uuid", "ownif"}}},
		{"op": "insert", "table": model.BridgeTable, "uuid-name": "bridge", "row": map[string]any{"name": name, "datapath_type": "netdev",
			"ports": []any{"set", []any{[]any{"named-uuid", "own"}, []any{"named-uuid", "port"}}}}},
		{"op": "mutate", "table": model.OpenvSwitchTable, "where": []any{}, "mutations": []any{[]any{"bridges", "insert", []any{"named-uuid", "bridge"}}}},
	}
}

// remove makes the operations that take a port out of its bridge: a row that nothing
// refers to is gone. The row itself is deleted too, so that one of its name can come
// in the same transaction.
func remove(uuid string, row *model.Port) []ovsdb.Op {
	id := []any{"uuid", uuid}
	ops := []ovsdb.Op{
		{"op": "mutate", "table": model.BridgeTable, "where": []any{[]any{"ports", "includes", id}}, "mutations": []any{[]any{"ports", "delete", id}}},
		{"op": "delete", "table": model.PortTable, "where": is("_uuid", id)},
		{"op": "delete", "table": model.QoSTable, "where": ours(row.Name)},
	}
	for _, i := range row.Interfaces {
		ops = append(ops, ovsdb.Op{"op": "delete", "table": model.InterfaceTable, "where": is("_uuid", []any{"uuid", i})})
	}
	return ops
}

// commitTries is how often a transaction is made anew because others made what
// it is built on.
const commitTries = 20

// A promise is where the database is, and where it must come for a transaction to be in
// force. The zero value is kept.
type promise struct{ next, now int }

// commit makes the transaction that build makes, again if it was overtaken, and
// returns what stands for it: nothing if there was nothing to do.
func commit(ctx context.Context, d *ovsdb.Caller, build func() ([]ovsdb.Op, error)) (p promise, err error) {
	for range commitTries {
		var ops []ovsdb.Op
		if ops, err = build(); err != nil || len(ops) == 0 {
			return promise{}, err
		}
		ops = append(ops,
			ovsdb.Op{"op": "comment", "comment": "millrace cni"},
			ovsdb.Op{"op": "mutate", "table": model.OpenvSwitchTable, "where": []any{}, "mutations": []any{[]any{"next_cfg", "+=", 1}}})
		if p, err = read(ctx, d, ops); err == nil {
			return p, nil
		}
		var refused *ovsdb.TransactError
		if !errors.As(err, &refused) || refused.Name != ovsdb.TimedOut && refused.Name != "constraint violation" {
			return promise{}, err
		}
	}
	return promise{}, fmt.Errorf("others change the database all the time, try again: %w", err)
}

// read makes operations, and returns where the database is then.
func read(ctx context.Context, d *ovsdb.Caller, ops []ovsdb.Op) (promise, error) {
	rows, err := d.Read(ctx, ops, ovsdb.Query{Table: model.OpenvSwitchTable, Where: []any{}})
	if err != nil {
		return promise{}, err
	}
	if len(rows[0]) != 1 {
		return promise{}, errors.New("the database has no row in Open_vSwitch: `millrace run` makes one, or `ovs-vsctl init`")
	}
	root := rows[0][0].Row.(*model.OpenvSwitch)
	return promise{root.NextCfg, root.CurCfg}, nil
}

// inForce waits until a promise is kept.
func inForce(ctx context.Context, d *ovsdb.Caller, p promise, limit time.Duration) error {
	for end := time.Now().Add(limit); p.now < p.next; {
		left := time.Until(end)
		if left <= 0 {
			return attach.Errorf(attach.CodeAgain, "the database has it, but it is not in force after %v: `millrace status` says what is missing", limit)
		}
		now, err := read(ctx, d, []ovsdb.Op{wait(model.OpenvSwitchTable, []any{}, "!=", map[string]any{"cur_cfg": p.now}, left)})
		if err != nil && !timedOut(err) {
			return err
		}
		if err == nil {
			p.now = now.now
		}
	}
	return nil
}

// await waits until rows are or are not as given, and no longer than limit.
func await(ctx context.Context, d *ovsdb.Caller, table string, where []any, until string, row map[string]any, limit time.Duration) error {
	if _, err := d.Transact(ctx, wait(table, where, until, row, limit)); err != nil && !timedOut(err) {
		return err
	}
	return nil
}

// wait makes the operation that waits for rows.
func wait(table string, where []any, until string, row map[string]any, limit time.Duration) ovsdb.Op {
	return ovsdb.Op{"op": "wait", "table": table, "where": where, "columns": slices.Sorted(maps.Keys(row)),
		"until": until, "rows": []any{row}, "timeout": limit.Milliseconds() + 1}
}

// timedOut reports whether a wait has waited in vain.
func timedOut(err error) bool {
	var refused *ovsdb.TransactError
	return errors.As(err, &refused) && refused.Name == ovsdb.TimedOut
}

// Values and conditions as RFC 7047 5.1 has them.

func is(column string, v any) []any { return []any{[]any{column, "==", v}} }

func includes(ids map[string]string) []any {
	return []any{[]any{"external_ids", "includes", mapOf(ids)}}
}

func none() any { return []any{"set", []any{}} }

func setOf(list []int) any {
	values := []any{}
	for _, n := range list {
		values = append(values, n)
	}
	return []any{"set", values}
}

func mapOf(m map[string]string) any {
	pairs := []any{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, []any{k, m[k]})
	}
	return []any{"map", pairs}
}
