package service

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/metrics"
	"strconv"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
)

// GetMemory implements api.FlowsServer.
func (f *flows) GetMemory(context.Context, *api.GetMemoryRequest) (*api.GetMemoryResponse, error) {
	resident, err := resident()
	if err != nil {
		return nil, err
	}
	m := &api.GetMemoryResponse{ResidentBytes: resident, MachineBytes: sys.Memory()}
	for _, u := range f.Switch.Memory() {
		m.Uses = append(m.Uses, &api.MemoryUse{Part: u.Part, Bytes: u.Bytes, Used: u.Used, Capacity: u.Capacity})
	}
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"}}
	metrics.Read(heap)
	m.HeapBytes, m.HeapGoalBytes = heap[0].Value.Uint64(), heap[1].Value.Uint64()
	return m, nil
}

// resident is how many bytes of memory the process has (proc(5), statm).
func resident() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("memory of this process: %w", err)
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0, fmt.Errorf("memory of this process: /proc/self/statm has %q", b)
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("memory of this process: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil
}
