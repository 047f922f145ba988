package sys

// TSC reads the time stamp counter. It counts at a constant rate, TSCHz, not
// at the core's clock. Reading it costs about 9 ns in a virtual machine.
func TSC() uint64
