package main

import (
	"fmt"
	"slices"

	"millrace/dataplane/sys"
)

// workerCPUs returns the CPUs of the workers: those of the list, or if it is
// empty all that this process may use but the first. The first is for Go's
// runtime, the API and the rest of the node.
func workerCPUs(list string, allowed []int) ([]int, error) {
	if list == "" {
		return allowed[min(1, len(allowed)-1):], nil
	}
	cpus, err := sys.ParseCPUs(list)
	if err != nil {
		return nil, err
	}
	for _, c := range cpus {
		if !slices.Contains(allowed, c) {
			return nil, fmt.Errorf("CPU %d is not one that this process may use: %v", c, allowed)
		}
	}
	return cpus, nil
}
