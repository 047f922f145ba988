package main

import (
	"fmt"

	"millrace/control"
)

// flowTally says how rows of Flow are; empty if there are none, and nobody wants any.
func flowTally(f *control.Flows, wanted bool) string {
	switch {
	case f == nil || f.Rows == 0 && !wanted && f.Reason == "":
		return ""
	case f.Reason != "" && f.Rows == 0:
		return "none: " + f.Reason
	}
	line := fmt.Sprintf("%d active, %d refused, %d inactive", f.Active, f.Refused, f.Inactive)
	if n := f.Rows - f.Active - f.Refused - f.Inactive; n > 0 {
		line += fmt.Sprintf(", %d on their way", n)
	}
	if f.Reason != "" {
		line += "; " + f.Reason
	}
	return line
}

// flowsStatusJSON is that for programs.
func flowsStatusJSON(f *control.Flows) any {
	if f == nil {
		return nil
	}
	return object{
		{"available", f.Available}, {"reason", f.Reason}, {"rows", f.Rows}, {"active", f.Active}, {"refused", f.Refused}, {"inactive", f.Inactive},
	}
}
