package doctor

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

const sysNet = "sys/class/net"

// mtuOneChunk is the largest MTU at which a frame of Ethernet with two tags lies in one page
// beside what XDP keeps there.
const mtuOneChunk = 3498 - 14 - 8

// devices looks at the network devices behind afxdp ports.
func devices(p *Patient) []Finding {
	if p.Switch == nil {
		return one(Unknown, "", "which network devices have ports is not known: no dataplane answers")
	}
	var all []Finding
	n := 0
	for _, port := range p.Switch.Ports {
		if port.Device == "" || port.Type != "afxdp" {
			continue
		}
		n++
		if !p.exists(path.Join(sysNet, port.Device)) {
			continue // in another namespace, or gone: the port says so itself
		}
		all = append(all, p.device(&port)...)
	}
	if all == nil {
		return one(OK, "", "%d network devices have ports, and nothing is wrong with them", n)
	}
	return all
}

// device looks at the device of one port.
func (p *Patient) device(port *Port) (all []Finding) {
	note := func(g Grade, remedy, format string, args ...any) {
		all = append(all, one(g, remedy, "%s: "+format, append([]any{port.Device}, args...)...)...)
	}
	mtu, err := strconv.Atoi(p.text(sysNet+"/%s/mtu", port.Device))
	if err == nil && mtu > mtuOneChunk && strings.Contains(port.How, "generic") {
		note(Notice, fmt.Sprintf("ip link set %s mtu %d, if jumbo frames are not needed", port.Device, mtuOneChunk), "MTU %d is more than one chunk takes: frames are put together and copied", mtu)
	}
	if errors := p.text(sysNet+"/%s/statistics/rx_missed_errors", port.Device); errors != "" && errors != "0" {
		note(Notice, "larger rings (ethtool -G), more queues (options:n_rxq), or more workers", "the device has missed %s frames since it was made", errors)
	}
	if p.Devices == nil {
		return all
	}
	d, err := p.Devices(port.Device)
	if err != nil {
		note(Unknown, "", "its driver does not answer: %v", err)
		return all
	}
	workers := len(p.Switch.Workers)
	if d.Queues < workers && d.Most > d.Queues {
		want := min(workers, d.Most)
		note(Notice, fmt.Sprintf("ethtool -L %s combined %d, then options:n_rxq=%d", port.Device, want, want), "it has %s, and there are %d workers: one of them carries all that comes by it", plural(d.Queues, "receive queue"), workers)
	}
	for _, f := range d.InTheWay {
		note(Warning, fmt.Sprintf("ethtool -K %s %s off", port.Device, f), "%s is on: frames come changed or put together", f)
	}
	if node := p.text(sysNet+"/%s/device/numa_node", port.Device); node != "" && node != "-1" {
		local := list(p.text("sys/devices/system/node/node%s/cpulist", node))
		for _, c := range p.Switch.Workers {
			if len(local) > 0 && !contains(local, c) {
				note(Notice, "workers on "+cpus(local), "it is at NUMA node %s, and the worker on CPU %d is not", node, c)
				break
			}
		}
	}
	return all
}

func contains(list []int, n int) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
