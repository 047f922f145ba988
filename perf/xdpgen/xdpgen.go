// Package xdpgen sends, counts and returns frames at a veth's end by XDP, with no packet
// buffer and no socket in between: as many as a kernel can be made to send.
package xdpgen

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A Sender sends copies of one frame from a device. A run of its program sends
// them in bulk straight to the queue of the veth's other end, which has to have
// an XDP program (kernel Documentation/bpf/bpf_prog_run.rst, live frames). Runs
// take 25 ms to begin, so there is one for a turn: it is told to end by a flag.
type Sender struct {
	state *ebpf.Map // stateEnded, stateSent
	prog  *ebpf.Program
	frame []byte
}

// The elements of Sender.state.
const (
	stateEnded = iota
	stateSent
	states
)

// NewSender makes a sender at the device of an index.
func NewSender(index int, frame []byte) (*Sender, error) {
	state, err := ebpf.NewMap(&ebpf.MapSpec{Name: "xdpgen_state", Type: ebpf.Array, KeySize: 4, ValueSize: 8 * states, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make the map of what was sent: %w", err)
	}
	s := &Sender{state: state, frame: frame}
	if s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "xdpgen_send", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, state.FD(), 0),
		asm.LoadMem(asm.R2, asm.R1, 8*stateEnded, asm.DWord), asm.JNE.Imm(asm.R2, 0, "out"),
		asm.LoadMem(asm.R2, asm.R1, 8*stateSent, asm.DWord), asm.Add.Imm(asm.R2, 1), asm.StoreMem(asm.R1, 8*stateSent, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R1, int32(index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("out"), asm.Return(),
	}}); err != nil {
		return nil, errors.Join(fmt.Errorf("load the program that sends: %w", err), state.Close())
	}
	return s, nil
}

// perRun is how many frames a run sends at most: some seconds' worth. What is left
// of a run that is told to end takes 20 ns a frame.
const perRun = 1 << 24

// Run sends until End is called. It keeps its thread's CPU busy.
func (s *Sender) Run() error {
	if err := s.state.Put(uint32(0), make([]byte, 8*states)); err != nil {
		return err
	}
	for {
		_, err := s.prog.Run(&ebpf.RunOptions{Data: s.frame, Repeat: perRun, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		if now, err := s.read(); err != nil || now[stateEnded] != 0 {
			return err
		}
	}
}

func (s *Sender) read() (now [states]uint64, err error) {
	return now, s.state.Lookup(uint32(0), &now)
}

// End ends Run soon.
func (s *Sender) End() error {
	now, err := s.read()
	if err != nil {
		return err
	}
	now[stateEnded] = 1
	return s.state.Put(uint32(0), &now)
}

// Sent is how many frames Run has sent.
func (s *Sender) Sent() (uint64, error) {
	now, err := s.read()
	return now[stateSent], err
}

// Close gives the program back.
func (s *Sender) Close() error { return errors.Join(s.prog.Close(), s.state.Close()) }

// A Sink counts and drops all that a device receives, before its stack.
type Sink struct {
	count *ebpf.Map
	prog  *ebpf.Program
	link  link.Link
}

// NewSink attaches a sink to the device of an index.
func NewSink(index int) (*Sink, error) {
	s := &Sink{}
	if err := s.attach(index); err != nil {
		return nil, errors.Join(fmt.Errorf("attach a sink: %w", err), s.Close())
	}
	return s, nil
}

func (s *Sink) attach(index int) (err error) {
	if s.count, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
		return err
	}
	if s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "xdpgen_sink", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, s.count.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("out"), asm.Return(),
	}}); err != nil {
		return err
	}
	s.link, err = link.AttachXDP(link.XDPOptions{Program: s.prog, Interface: index, Flags: link.XDPDriverMode})
	return err
}

// Count is how many frames have come.
func (s *Sink) Count() (n uint64, err error) {
	var all []uint64
	if err := s.count.Lookup(uint32(0), &all); err != nil {
		return 0, err
	}
	for _, c := range all {
		n += c
	}
	return n, nil
}

// Close detaches the sink.
func (s *Sink) Close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.prog != nil {
		errs = append(errs, s.prog.Close())
	}
	if s.count != nil {
		errs = append(errs, s.count.Close())
	}
	return errors.Join(errs...)
}
