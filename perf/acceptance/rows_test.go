package acceptance

import (
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"millrace/control/bridge"
)

// addRow adds a port to bridge br0, which it makes if need be, in the database
// that listens on socket. Its frames may be as long as any. It says OVSDB itself: not every machine that these
// tests run on has ovs-vsctl.
func addRow(t *testing.T, socket, name, kind, path string, tag int) {
	t.Helper()
	type object map[string]any
	named := func(name string) []string { return []string{"named-uuid", name} }
	iface := object{"name": name, "type": kind, "mtu_request": bridge.MTUMax}
	if path != "" {
		iface["options"] = []any{"map", [][2]string{{"vhost-server-path", path}}}
	}
	port := object{"name": name, "interfaces": named("i")}
	if tag != 0 {
		port["tag"] = tag
	}
	ops := []any{
		object{"op": "insert", "table": "Interface", "uuid-name": "i", "row": iface},
		object{"op": "insert", "table": "Port", "uuid-name": "p", "row": port},
	}
	isBr0 := []any{[]any{"name", "==", "br0"}}
	if len(transact(t, socket, object{"op": "select", "table": "Bridge", "where": isBr0, "columns": []string{"name"}})[0].Rows) == 0 {
		ops = append(ops,
			object{"op": "insert", "table": "Bridge", "uuid-name": "b", "row": object{"name": "br0", "ports": named("p")}},
			object{"op": "mutate", "table": "Open_vSwitch", "where": []any{}, "mutations": []any{[]any{"bridges", "insert", named("b")}}})
	} else {
		ops = append(ops, object{"op": "mutate", "table": "Bridge", "where": isBr0, "mutations": []any{[]any{"ports", "insert", named("p")}}})
	}
	transact(t, socket, ops...)
}

// An opResult is what came of one operation (RFC 7047 section 5.2).
type opResult struct {
	Rows    []any  `json:"rows"`
	Error   string `json:"error"`
	Details string `json:"details"`
}

// transact makes one transaction, which must succeed.
func transact(t *testing.T, socket string, ops ...any) []opResult {
	t.Helper()
	c, err := net.Dial("unix", socket)
	check(t, err)
	defer c.Close()
	check(t, c.SetDeadline(time.Now().Add(patience)))
	check(t, json.NewEncoder(c).Encode(map[string]any{"method": "transact", "id": 1, "params": append([]any{"Open_vSwitch"}, ops...)}))
	var answer struct {
		Result []opResult `json:"result"`
		Error  any        `json:"error"`
	}
	check(t, json.NewDecoder(c).Decode(&answer))
	problem := fmt.Sprint(answer.Error)
	for _, r := range answer.Result {
		if r.Error != "" {
			problem = r.Error + ": " + r.Details
		}
	}
	if problem != "<nil>" || len(answer.Result) < len(ops) {
		t.Fatalf("transaction: %s", problem)
	}
	return answer.Result
}
