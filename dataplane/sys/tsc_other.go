//go:build !amd64

package sys

import "time"

var start = time.Now()

// TSC counts nanoseconds where there is no time stamp counter.
func TSC() uint64 { return uint64(time.Since(start)) }
