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
	ended *ebpf.Map // one word, End's: not 0 ends the run
	sent  *ebpf.Map // one word, the program's: frames. A map of its own, for who writes a value writes all of it
	prog  *ebpf.Program
	frame []byte
}

// NewSender makes a sender at the device of an index.
func NewSender(index int, frame []byte) (*Sender, error) {
	s := &Sender{frame: frame}
	if err := s.load(index); err != nil {
		return nil, errors.Join(fmt.Errorf("load the program that sends: %w", err), s.Close())
	}
	return s, nil
}

func (s *Sender) load(index int) (err error) {
	word := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}
	if s.ended, err = ebpf.NewMap(word); err != nil {
		return err
	}
	if s.sent, err = ebpf.NewMap(word); err != nil {
		return err
	}
	s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "xdpgen_send", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, s.ended.FD(), 0),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord), asm.JNE.Imm(asm.R2, 0, "out"),
		asm.LoadMapValue(asm.R1, s.sent.FD(), 0),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord), asm.Add.Imm(asm.R2, 1), asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R1, int32(index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("out"), asm.Return(),
	}})
	return err
}

// perRun is how many frames a run sends at most: some seconds' worth. What is left
// of a run that is told to end takes 20 ns a frame.
const perRun = 1 << 24

// Run sends until End is called, before or after. It keeps its thread's CPU busy.
func (s *Sender) Run() error {
	for {
		var ended uint64
		if err := s.ended.Lookup(uint32(0), &ended); err != nil || ended != 0 {
			return err
		}
		_, err := s.prog.Run(&ebpf.RunOptions{Data: s.frame, Repeat: perRun, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// End ends Run soon, and for good.
func (s *Sender) End() error { return s.ended.Put(uint32(0), uint64(1)) }

// Sent is how many frames Run has sent.
func (s *Sender) Sent() (n uint64, err error) {
	err = s.sent.Lookup(uint32(0), &n)
	return n, err
}

// Close gives the program and its maps back.
func (s *Sender) Close() error {
	var errs []error
	if s.prog != nil {
		errs = append(errs, s.prog.Close())
	}
	return errors.Join(append(errs, s.ended.Close(), s.sent.Close())...) // of nil, too
}

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
