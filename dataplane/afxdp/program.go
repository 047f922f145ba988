package afxdp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

//go:generate bpf/generate

// Bits of the program's variable selected, as in bpf/steer.c.
const (
	selectVLANs = 1 << iota
	selectMACs
	selectPorts
)

// A program is the XDP program of a port, attached to its device. It goes with
// the process: the attachment is a BPF link that nothing else holds.
type program struct {
	objs  *ebpf.Collection
	link  link.Link
	hosts map[netip.Addr]struct{} // what the map of that name has
}

// loadProgram loads the program for device index. With tagged it asks the
// driver for tags that are kept beside frames, which is possible in native
// mode. With lanes, of which there may be none, frames can be sent by runs of it; those
// know nothing of tags.
func loadProgram(index int, sel *Selection, tagged, multi bool, lanes int) (*program, error) {
	spec, err := loadSteer()
	if err != nil {
		return nil, fmt.Errorf("read XDP program: %w", err)
	}
	name, other := "steer", "steer_tagged"
	if tagged {
		name, other = other, name
		spec.Programs[name].Ifindex = uint32(index)
		spec.Programs[name].Flags |= unix.BPF_F_XDP_DEV_BOUND_ONLY
		if err := resolveTag(spec.Programs[name].Instructions); err != nil {
			return nil, err
		}
	}
	delete(spec.Programs, other)
	if !multi {
		spec.Programs[name].Flags &^= unix.BPF_F_XDP_HAS_FRAGS
	}
	if err := spec.Variables["selected"].Set(sel.bits()); err != nil {
		return nil, fmt.Errorf("set up XDP program: %w", err)
	}
	if lanes > 0 {
		spec.Maps["lanes"].MaxEntries, spec.Maps["slots"].MaxEntries = uint32(lanes), uint32(lanes*laneSlots)
		if err := spec.Variables["sends"].Set(uint32(index)); err != nil {
			return nil, fmt.Errorf("set up XDP program: %w", err)
		}
	}
	objs, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load XDP program: %w", err)
	}
	p := &program{objs: objs, hosts: map[netip.Addr]struct{}{}}
	if err := p.selects(sel); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// tagFunc is the kernel's function that tells the tag of a frame, by its number
// in the kernel's type information. That is large: it is read once, and nothing
// else of it is kept.
var tagFunc = sync.OnceValues(func() (btf.TypeID, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0, fmt.Errorf("read the kernel's types: %w", err)
	}
	var fn *btf.Func
	if err := kernel.TypeByName("bpf_xdp_metadata_rx_vlan_tag", &fn); err != nil {
		return 0, fmt.Errorf("the kernel is older than 6.8: %w", err)
	}
	return kernel.TypeID(fn)
})

// resolveTag makes the calls of kernel functions in code, all of tagFunc, ready
// to be loaded.
func resolveTag(code asm.Instructions) error {
	id, err := tagFunc()
	if err != nil {
		return err
	}
	for i := range code {
		if code[i].IsKfuncCall() {
			code[i] = asm.Instruction{OpCode: code[i].OpCode, Src: asm.PseudoKfuncCall, Constant: int64(id)}
		}
	}
	return nil
}

// main is the one program of the collection.
func (p *program) main() *ebpf.Program {
	for _, prog := range p.objs.Programs {
		return prog
	}
	return nil
}

func (s *Selection) bits() uint32 {
	var b uint32
	if len(s.VLANs) > 0 {
		b |= selectVLANs
	}
	if len(s.MACs) > 0 {
		b |= selectMACs
	}
	if len(s.Ports) > 0 {
		b |= selectPorts
	}
	return b
}

// selects fills the maps that say which frames go to the port.
func (p *program) selects(s *Selection) error {
	for _, t := range []struct {
		name string
		bits []uint16
	}{{"vlans", s.VLANs}, {"ports", s.Ports}} {
		words := map[uint32]uint64{}
		for _, n := range t.bits {
			words[uint32(n/64)] |= 1 << (n % 64)
		}
		for k, v := range words {
			if err := p.objs.Maps[t.name].Put(k, v); err != nil {
				return fmt.Errorf("set up XDP program: map %s: %w", t.name, err)
			}
		}
	}
	for _, m := range s.MACs {
		var key uint64
		for i, b := range m {
			key |= uint64(b) << (8 * i)
		}
		if err := p.objs.Maps["macs"].Put(key, uint8(1)); err != nil {
			return fmt.Errorf("set up XDP program: map macs: %w", err)
		}
	}
	return nil
}

// attach attaches the program to the device, natively or generically.
func (p *program) attach(index int, native bool) error {
	flags := link.XDPGenericMode
	if native {
		flags = link.XDPDriverMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: p.main(), Interface: index, Flags: flags})
	if err != nil {
		return err
	}
	p.link = l
	return nil
}

// steer has the frames of a queue go to socket s.
func (p *program) steer(s *socket) error {
	if err := p.objs.Maps["sockets"].Put(s.queue, uint32(s.fd.Int())); err != nil {
		return fmt.Errorf("steer queue %d to its socket: %w", s.queue, err)
	}
	return nil
}

// setHosts makes addresses those that the host has.
func (p *program) setHosts(hosts map[netip.Addr]struct{}) error {
	m := p.objs.Maps["hosts"]
	for ip := range hosts {
		if _, ok := p.hosts[ip]; ok {
			continue
		}
		if err := m.Put(ip.As16(), uint8(1)); err != nil {
			return fmt.Errorf("note the host's address %v: %w", ip, err)
		}
		p.hosts[ip] = struct{}{}
	}
	for ip := range p.hosts {
		if _, ok := hosts[ip]; ok {
			continue
		}
		if err := m.Delete(ip.As16()); err != nil {
			return fmt.Errorf("forget the host's address %v: %w", ip, err)
		}
		delete(p.hosts, ip)
	}
	return nil
}

// close detaches the program and lets it go.
func (p *program) close() error {
	var err error
	if p.link != nil {
		err = p.link.Close()
	}
	p.objs.Close()
	return err
}
