package agent

import (
	"context"
	"strconv"
	"strings"

	"millrace/control/bridge"
	"millrace/control/cni/attach"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

// judgeLimits refuses rates that rows cannot have.
func judgeLimits(at *attach.Attachment) error {
	for _, r := range []*attach.Rate{at.Send, at.Receive} {
		if r != nil && (r.Bits < 1 || r.Burst < 1) {
			return attach.Errorf(attach.CodeInvalid, "rate: %d bits a second with a burst of %d", r.Bits, r.Burst)
		}
	}
	if s := at.Security; s != "" && s != attach.SecureMAC && s != attach.SecureAddresses {
		return attach.Errorf(attach.CodeInvalid, "port security: %.40q", s)
	}
	return nil
}

// limitColumns adds to the Interface row what the pod may send, and as whom.
func limitColumns(at *attach.Attachment, iface map[string]any) {
	if r := at.Send; r != nil {
		iface["ingress_policing_rate"], iface["ingress_policing_burst"] = units(r.Bits, 1000), units(r.Burst, 1000)
	}
	words := []string{at.MAC}
	switch at.Security {
	case attach.SecureAddresses:
		for _, ip := range at.IPs {
			address, _, _ := strings.Cut(ip, "/") // with its prefix, one could be a whole network
			words = append(words, address)
		}
		fallthrough
	case attach.SecureMAC:
		iface["other_config"] = mapOf(map[string]string{bridge.KeySecurity: strings.Join(words, " ")})
	}
}

// units is n in bigger units, rounded up.
func units(n, unit int64) int64 { return (n + unit - 1) / unit }

// keyPort is the key of external_ids of QoS rows that says whose they are.
const keyPort = "port"

// qosRow makes the operations that give the Port row pc the rate of what the pod
// receives.
func qosRow(at *attach.Attachment, pc map[string]any) []ovsdb.Op {
	if at.Receive == nil {
		return nil
	}
	pc["qos"] = []any{"named-uuid", "qos"}
	return []ovsdb.Op{{"op": "insert", "table": model.QoSTable, "uuid-name": "qos", "row": map[string]any{
		"type": bridge.QoSPolicer,
		"other_config": mapOf(map[string]string{
			"cir": strconv.FormatInt(units(at.Receive.Bits, 8), 10), "cbs": strconv.FormatInt(units(at.Receive.Burst, 8), 10),
		}),
		"external_ids": mapOf(map[string]string{keyOwner: owner, keyPort: at.Port()}),
	}}}
}

// ours are the QoS rows of a port, or of all ports.
func ours(port string) []any {
	ids := map[string]string{keyOwner: owner}
	if port != "" {
		ids[keyPort] = port
	}
	return includes(ids)
}

// rateRows are the QoS rows that we have made, by UUID, and the ports that they were made for.
func rateRows(ctx context.Context, d *ovsdb.Caller) (map[string]string, error) {
	rows, err := d.Select(ctx, model.QoSTable, ours(""))
	if err != nil {
		return nil, err
	}
	ports := map[string]string{}
	for _, r := range rows {
		ports[r.UUID] = r.Row.(*model.QoS).ExternalIDs[keyPort]
	}
	return ports, nil
}

// sweepRates removes QoS rows whose port others have deleted: they do not go with it. rows
// were there before list was.
func (a *agent) sweepRates(ctx context.Context, d *ovsdb.Caller, rows map[string]string, list []*record) error {
	known := map[string]bool{}
	for _, r := range list {
		known[r.Port()] = true
	}
	var ops []ovsdb.Op
	for uuid, port := range rows {
		if !known[port] {
			ops = append(ops, ovsdb.Op{"op": "delete", "table": model.QoSTable, "where": is("_uuid", []any{"uuid", uuid})})
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, err := d.Transact(ctx, ops...)
	return err
}
