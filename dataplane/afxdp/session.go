package afxdp

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

// A session is the port's hold on a device: the program, and a socket for each
// queue.
type session struct {
	dev     device
	native  bool
	tagged  bool // the program gets tags back that the device keeps beside frames
	binding binding
	chunk   uint32
	prog    *program
	sockets []*socket
	out     *outbox     // nil: frames are sent by sockets only
	why     []string    // what was not chosen, and why
	undo    []io.Closer // settings of the device and its peer that were changed
}

// A refusal is a way to use the device that it does not have.
type refusal struct {
	way string
	err error
}

func (r refusal) Error() string { return r.way + ": " + r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

// choose takes device d in the best way that the mode allows and that works: it
// tries, for what a driver can do is nowhere told in full.
func choose(d device, o *Options, queues int, fail func(*socket, error)) (*session, error) {
	var no []error
	for _, native := range natives(o.Mode) {
		s := &session{dev: d, native: native}
		errs, err := s.open(o, queues, fail)
		no = append(no, errs...)
		if err == nil {
			for _, e := range no {
				s.why = append(s.why, e.Error())
			}
			return s, nil
		}
		_ = s.close()
		if !isRefusal(err) {
			return nil, err
		}
		no = append(no, err)
	}
	return nil, fmt.Errorf("device %s cannot be used in mode %s: %w", d.name, o.Mode, errors.Join(no...))
}

// natives are the kinds of attachment that a mode allows, best first.
func natives(m Mode) []bool {
	switch m {
	case Generic:
		return []bool{false}
	case BestEffort:
		return []bool{true, false}
	}
	return []bool{true}
}

// bindings are the ways to bind a socket that a mode allows, best first, for
// frames of up to frame bytes.
func bindings(s *Settings, native bool, frame int) []binding {
	plain := binding{needWakeup: !s.NoWakeup, busyPoll: s.BusyPoll}
	multi, zero := plain, plain
	multi.multi = true
	_, one := chunkFor(frame, false)
	zero.zeroCopy, zero.multi = true, !one
	switch {
	case s.Mode == ZeroCopy:
		return []binding{zero}
	case s.Mode == BestEffort && native:
		return []binding{zero, multi, plain}
	}
	return []binding{multi, plain}
}

// A cannot is what a driver says that it cannot do.
type cannot struct{ error }

// isRefusal reports whether err says that a way is not possible, rather than
// that it failed.
func isRefusal(err error) bool {
	if no := (cannot{}); errors.As(err, &no) {
		return true
	}
	for _, e := range []error{unix.EOPNOTSUPP, unix.EINVAL, unix.ERANGE, unix.ENOSPC, unix.EPROTONOSUPPORT, unix.ENOTSUP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// open attaches the program and binds sockets. It returns what it tried before
// with no success.
func (s *session) open(o *Options, queues int, fail func(*socket, error)) (no []error, err error) {
	if err := s.attach(o, queues); err != nil {
		return nil, err
	}
	s.quieten(o.Log) // before there is a socket: a frame that came now could lack its tag
	frame := s.dev.mtu + packet.FrameMin + 2*tagLen
	can, err := askFeatures(s.dev.index)
	if err != nil {
		can = xdpFeatures{} // it does not tell: it is tried
	}
	for _, b := range bindings(&o.Settings, s.native, frame) {
		s.binding = b
		s.chunk, _ = chunkFor(frame, b.multi)
		if err = s.try(can, queues, fail); err == nil {
			return no, nil
		}
		err = refusal{b.String(), err}
		if !isRefusal(err) {
			return no, err
		}
		no = append(no, err)
	}
	return no[:len(no)-1], err
}

// try binds sockets in the session's way, unless the driver says that it has no
// such way.
func (s *session) try(can xdpFeatures, queues int, fail func(*socket, error)) error {
	if s.binding.zeroCopy {
		if err := can.zeroCopy(s.binding.multi); err != nil {
			return cannot{err}
		}
	}
	return s.bind(queues, fail)
}

// attach loads and attaches the program: in native mode with what the driver
// knows of tags, if it can tell.
func (s *session) attach(o *Options, queues int) error {
	switch have, err := attached(s.dev.index); {
	case err != nil:
		return err
	case have != "":
		return errForeign(s.dev.name, have)
	}
	way := "generic XDP"
	if s.native {
		way = "native XDP"
	}
	lanes := 0
	if o.Runs && s.native && s.dev.kind == veth {
		lanes = queues
	}
	var err error
	for _, v := range []struct{ tagged, multi bool }{{true, true}, {false, true}, {false, false}} {
		if v.tagged && (!s.native || lanes > 0) {
			continue
		}
		var prog *program
		if prog, err = loadProgram(s.dev.index, &o.Select, v.tagged, v.multi, lanes); err != nil {
			continue
		}
		if err = prog.attach(s.dev.index, s.native); err == nil {
			s.prog, s.tagged = prog, v.tagged
			s.openOutbox(o, lanes)
			return nil
		}
		_ = prog.close()
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return errForeign(s.dev.name, "an XDP program")
		}
	}
	return refusal{way, err}
}

// openOutbox makes what frames are sent with by runs, if that is asked for.
func (s *session) openOutbox(o *Options, lanes int) {
	if !o.Runs {
		return
	}
	err := errors.New("that is for veths in native mode")
	if lanes > 0 {
		s.out, err = s.prog.outbox(lanes)
	}
	if err != nil {
		s.why = append(s.why, refusal{"sent by runs", err}.Error())
		return
	}
	s.out.look(&s.dev)
}

// ErrForeign is the error of a device that has somebody else's XDP program.
var ErrForeign = errors.New("the device has an XDP program of somebody else, which is left alone")

func errForeign(name, what string) error {
	return fmt.Errorf("%w: %s (end the program that attached it, or `ip link set dev %s xdp off`)", ErrForeign, what, name)
}

// bind opens a socket for each queue and has the program steer to it.
func (s *session) bind(queues int, fail func(*socket, error)) error {
	for q := range queues {
		sock, err := openSocket(s.dev.index, uint32(q), s.binding, s.chunk, fail)
		if err == nil {
			s.sockets = append(s.sockets, sock)
			sock.rx.complete = s.dev.kind == veth
			if s.out != nil {
				sock.run = s.out.runner(q)
			}
			err = s.prog.steer(sock)
		}
		if err != nil {
			return errors.Join(err, s.unbind())
		}
	}
	return nil
}

func (s *session) unbind() error {
	var errs []error
	for _, sock := range s.sockets {
		errs = append(errs, sock.close())
	}
	s.sockets = nil
	return errors.Join(errs...)
}

// close lets the device go. No worker has a socket any more.
func (s *session) close() error {
	var errs []error
	if s.prog != nil {
		errs = append(errs, s.prog.close())
	}
	errs = append(errs, s.unbind(), s.out.close())
	for _, u := range s.undo {
		errs = append(errs, u.Close())
	}
	return errors.Join(errs...)
}

// senders are the sockets whose queue can send.
func (s *session) senders() []*socket {
	return s.sockets[:min(len(s.sockets), max(s.dev.queues.tx, 1))]
}

// features are what was chosen.
func (s *session) features() []string {
	mode, copies := "generic", "copy"
	if s.native {
		mode = "native"
	}
	if s.binding.zeroCopy {
		copies = "zero-copy"
	}
	list := []string{mode, copies}
	for _, f := range []struct {
		has  bool
		name string
	}{
		{s.binding.needWakeup, "need-wakeup"}, {s.binding.busyPoll, "busy-poll"}, {s.binding.multi, "multi-buffer"}, {s.tagged, "tags-restored"},
		{s.dev.kind == veth, "checksums-completed"}, {s.out != nil && s.out.why == "", "sent-by-runs"},
	} {
		if f.has {
			list = append(list, f.name)
		}
	}
	return list
}

// how says what was chosen and why.
func (s *session) how(sel *Selection) string {
	f := s.features()
	text := fmt.Sprintf("%s (%s): %s XDP, %s, %d of %d queues, %s", s.dev.name, s.dev.driver, f[0], strings.Join(f[1:], ", "), len(s.sockets), s.dev.queues.rx, sel)
	if left := s.dev.queues.rx - len(s.sockets); left > 0 {
		text += fmt.Sprintf("; queues %d and up stay with the kernel", len(s.sockets))
	}
	for _, w := range s.why {
		text += "; not " + w
	}
	if s.out != nil && s.out.why != "" {
		text += "; not sent by runs: " + s.out.why
	}
	return text
}
