package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"millrace/dataplane/sys"
)

// alive reports whether a process that a file tells of still runs the command
// that it says: the file may be older than a crash, and the id somebody
// else's by now.
func alive(pid int, command string) bool {
	if pid <= 0 {
		return false
	}
	if pid == os.Getpid() {
		return true // a part of ourselves
	}
	// The state follows the name, which is in parentheses and may hold some
	// (proc_pid_stat(5)).
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	rest := string(stat)
	rest = rest[strings.LastIndexByte(rest, ')')+1:]
	if err != nil || strings.HasPrefix(rest, " Z") || strings.HasPrefix(rest, " X") {
		return false
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.Contains(strings.Split(string(args), "\x00"), command)
}

// spareCollector has the collector of a process that loads very many rows run half as
// often: on a machine of two cores, of which one is a worker's, it took a fourth of the
// time until they were in force. The price is memory: half as much again at the peak.
func spareCollector() { debug.SetGCPercent(200) }

// releaseStart gives back what the start of a process that stays has used and
// nobody will again: garbage, and pages of the program. If that fails, there is
// less memory for others, that is all.
func releaseStart() {
	debug.FreeOSMemory()
	_ = sys.ReleaseProgram()
}
