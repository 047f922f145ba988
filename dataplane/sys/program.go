package sys

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ReleaseProgram has the kernel take the pages of the program's file that nobody
// writes (instructions, constants) out of the process. They stay in the page
// cache, and come back one by one as they are used: after a start, by far not all.
func ReleaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("release the program's pages: %w", err)
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("release the program's pages: %w", err)
	}
	defer maps.Close()
	var start, end uintptr
	ours := false
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		if a, b, perms, path, ok := parseMapping(line); ok {
			start, end, ours = a, b, path == exe && perms[0] == 'r' && perms[1] == '-' && perms[3] == 'p'
			continue
		}
		if !ours || !unwritten(line) {
			continue
		}
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("release the program's pages: %w", e)
		}
	}
	return nil
}

// unwritten reports whether a line of smaps says that a mapping of a file has no page that
// was written: of a program that was relocated, it has. What was never written is
// the same when it is read again.
func unwritten(line string) bool {
	n, ok := strings.CutPrefix(line, "Anonymous:")
	return ok && strings.TrimSpace(n) == "0 kB"
}

// parseMapping parses the first line of a mapping in smaps (proc_pid_maps(5)).
func parseMapping(line string) (start, end uintptr, perms, path string, ok bool) {
	f := strings.SplitN(line, " ", 6) // range, permissions, offset, device, inode, path: of these the last may have spaces
	if len(f) < 6 || len(f[1]) != 4 {
		return 0, 0, "", "", false
	}
	n, _ := fmt.Sscanf(f[0], "%x-%x", &start, &end)
	return start, end, f[1], strings.TrimLeft(f[5], " "), n == 2
}
