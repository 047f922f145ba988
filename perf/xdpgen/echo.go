package xdpgen

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// An Echo sends all IPv4 that a device receives back to where it came from, with addresses of
// Ethernet and IP turned round, which leaves checksums right. All else goes to the stack.
type Echo struct {
	prog *ebpf.Program
	link link.Link
}

// Offsets of what is turned round, in bytes, and the length of the headers.
const (
	atSrcMAC, atType = 6, 12
	atSrc, atDst     = 14 + 12, 14 + 16
	headers          = 14 + 20

	typeIPv4 = 0x0008 // as a little-endian machine reads it
)

// What XDP programs return (enum xdp_action).
const (
	xdpPass = 2
	xdpTx   = 3
)

// NewEcho attaches an echo to the device of an index. XDP_TX needs an XDP program at a veth's other
// end, too.
func NewEcho(index int) (*Echo, error) {
	ins := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data, data_end
		asm.Mov.Reg(asm.R4, asm.R2), asm.Add.Imm(asm.R4, headers), asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R4, asm.R2, atType, asm.Half), asm.JNE.Imm(asm.R4, typeIPv4, "pass"),
	}
	for _, f := range []struct {
		a, b int16
		size asm.Size
	}{{0, atSrcMAC, asm.Word}, {4, atSrcMAC + 4, asm.Half}, {atSrc, atDst, asm.Word}} {
		ins = append(ins, asm.LoadMem(asm.R4, asm.R2, f.a, f.size), asm.LoadMem(asm.R5, asm.R2, f.b, f.size),
			asm.StoreMem(asm.R2, f.a, asm.R5, f.size), asm.StoreMem(asm.R2, f.b, asm.R4, f.size))
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, xdpTx), asm.Return(), asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"), asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "xdpgen_echo", Type: ebpf.XDP, License: "GPL", Instructions: ins})
	if err != nil {
		return nil, fmt.Errorf("load the program that echoes: %w", err)
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach an echo: %w", err), prog.Close())
	}
	return &Echo{prog, l}, nil
}

// Close detaches the echo.
func (e *Echo) Close() error { return errors.Join(e.link.Close(), e.prog.Close()) }
