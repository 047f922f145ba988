package bridge

import (
	"fmt"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/control/ovsdb/model"
)

// Limits of a bridge's settings.
const (
	macAgeMin = 15 // seconds, as in ovs-vswitchd.conf.db(5)
	macAgeMax = 3600
	macMaxMin = 10
	macMaxMax = 1 << 20
)

// cpuMax is the number of CPUs that a mask may name.
const cpuMax = 1024

// root reads the settings of the Open_vSwitch row.
func (r *reader) root() {
	c := r.rows.Root.OtherConfig
	if n, err := number(c, "stats-update-interval", int(StatsDefault/time.Millisecond), 0, 1<<30); err != nil {
		r.fault("Open_vSwitch", ".", "other_config", err)
	} else {
		r.state.Stats = max(time.Duration(n)*time.Millisecond, StatsDefault)
	}
	cpus, err := cpuMask(c["pmd-cpu-mask"])
	if err != nil {
		r.fault("Open_vSwitch", ".", "other_config", err)
	}
	r.state.CPUs = cpus
	r.state.Balance = r.balance(c)
}

// cpuMask reads the CPUs of a mask of hexadecimal digits.
func cpuMask(s string) ([]int, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	if s == "" {
		return nil, nil
	}
	if len(digits) > cpuMax/4 {
		return nil, bad("pmd-cpu-mask of %d digits names more than %d CPUs", len(digits), cpuMax)
	}
	mask, ok := new(big.Int).SetString(digits, 16)
	if !ok || strings.ContainsAny(digits, "+-_") {
		return nil, bad("pmd-cpu-mask=%q is not hexadecimal", short(s))
	}
	var cpus []int
	for i := range mask.BitLen() {
		if mask.Bit(i) == 1 {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// number reads a key that is a decimal number between lo and hi.
func number(m map[string]string, key string, unset, lo, hi int) (int, error) {
	s, ok := m[key]
	if !ok {
		return unset, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < lo || n > hi {
		return unset, bad("%s=%q is not a number from %d to %d", key, short(s), lo, hi)
	}
	return n, nil
}

// bridge reads a bridge and its ports.
func (r *reader) bridge(row *model.Bridge) {
	view := View{UUID: row.UUID, Name: row.Name, DatapathID: datapathID(row)}
	var texts []string
	note := func(column string, err error) {
		if err != nil {
			r.fault("Bridge", row.Name, column, err)
			texts = append(texts, column+": "+err.Error())
		}
	}
	b, errs := bridgeSettings(row)
	for _, err := range errs {
		note("other_config", err)
	}
	for _, column := range unsupported(row) {
		note(column, notYet("%s", column))
	}
	why, of := badName(row.Name), "name"
	if why == nil && !b.RunsFlows() && row.FailMode != nil && *row.FailMode == model.BridgeFailModeSecure {
		of, why = "fail_mode", notYet("fail_mode secure: without flows, a secure bridge forwards nothing: other_config:%s=%s has it run those of the Millrace database", KeyPipeline, Flows)
	}
	note(of, why)
	if why == nil {
		r.state.Bridges[row.Name] = b
	}
	for _, p := range r.portsIn(row) {
		r.port(row, p, why)
	}
	view.Error = strings.Join(texts, "; ")
	r.state.BridgeRows = append(r.state.BridgeRows, view)
}

// bridgeSettings reads a bridge's own settings; a bad one has its default.
func bridgeSettings(row *model.Bridge) (Bridge, []error) {
	var errs []error
	take := func(n int, err error) int {
		if err != nil {
			errs = append(errs, err)
		}
		return n
	}
	age := take(number(row.OtherConfig, "mac-aging-time", int(MACAgeDefault/time.Second), 0, 1<<31-1))
	most := take(number(row.OtherConfig, "mac-table-size", MACMaxDefault, 0, 1<<31-1))
	b := Bridge{
		Name:   row.Name,
		MACAge: time.Duration(min(max(age, macAgeMin), macAgeMax)) * time.Second, // as ovs-vswitchd does
		MACMax: min(max(most, macMaxMin), macMaxMax),
	}
	for _, v := range row.FloodVLANs {
		if v <= VLANMax {
			b.Flood = append(b.Flood, uint16(v))
		}
	}
	slices.Sort(b.Flood)
	b.Flood = slices.Compact(b.Flood)
	switch s := Pipeline(row.OtherConfig[KeyPipeline]); s {
	case Flows:
		b.Pipeline = s
	case Learning, "":
	default:
		errs = append(errs, unknown("%s=%q: it is %s or %s", KeyPipeline, short(string(s)), Learning, Flows))
	}
	if s, ok := row.OtherConfig["hwaddr"]; ok {
		if _, err := station(s); err != nil {
			errs = append(errs, fmt.Errorf("hwaddr: %w", err))
		}
	}
	if s, given := row.OtherConfig["datapath-id"]; given {
		if _, ok := parseDatapathID(s); !ok {
			errs = append(errs, bad("datapath-id=%q is not 16 hexadecimal digits", short(s)))
		}
	}
	return b, errs
}

// unsupported names the columns of a bridge that ask for what is not there.
func unsupported(row *model.Bridge) []string {
	var columns []string
	for _, c := range []struct {
		name string
		set  bool
	}{
		{"controller", len(row.Controller) > 0},
		{"ipfix", row.IPFIX != nil},
		{"mirrors", len(row.Mirrors) > 0},
		{"netflow", row.Netflow != nil},
		{"rstp_enable", row.RSTPEnable},
		{"sflow", row.Sflow != nil},
		{"stp_enable", row.STPEnable},
	} {
		if c.set {
			columns = append(columns, c.name)
		}
	}
	return columns
}

// station reads the address of one station.
func station(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || slices.Max(mac) == 0 {
		return nil, bad("%q is not an Ethernet address of one station, like 02:00:00:00:00:01", short(s))
	}
	return mac, nil
}

// bridgeMAC is the address of the bridge's own port: the one that is asked for
// or a local one that follows from the row's identity.
func bridgeMAC(row *model.Bridge) net.HardwareAddr {
	if mac, err := station(row.OtherConfig["hwaddr"]); err == nil {
		return mac
	}
	return localMAC(row.UUID)
}

// datapathID is 16 hexadecimal digits: those that are asked for, or the
// bridge's address.
func datapathID(row *model.Bridge) string {
	if n, ok := parseDatapathID(row.OtherConfig["datapath-id"]); ok {
		return fmt.Sprintf("%016x", n)
	}
	return fmt.Sprintf("0000%x", []byte(bridgeMAC(row)))
}

// parseDatapathID reads 16 hexadecimal digits, or up to so many behind 0x.
func parseDatapathID(s string) (n uint64, ok bool) {
	s, hex := strings.CutPrefix(s, "0x")
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil && n != 0 && (len(s) == 16 || hex && len(s) <= 16)
}
