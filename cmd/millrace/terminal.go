package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether f is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// height is how many lines the terminal f has, or 0 if it does not say.
func height(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Row)
}

// onKey calls quit when q is pressed, if standard input is a terminal, and
// returns what gives the terminal back as it was.
func (a *app) onKey(quit func()) (restore func()) {
	in, ok := a.in.(*os.File)
	if !ok {
		return func() {}
	}
	fd := int(in.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	raw := *old
	raw.Lflag &^= unix.ICANON | unix.ECHO // keys at once and unseen; Ctrl-C stays a signal
	if unix.IoctlSetTermios(fd, unix.TCSETS, &raw) != nil {
		return func() {}
	}
	go func() {
		var key [1]byte
		for {
			n, err := in.Read(key[:])
			if err != nil || n == 1 && (key[0] == 'q' || key[0] == 'Q') {
				quit()
				return
			}
		}
	}()
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) } // nothing can be done about it
}
