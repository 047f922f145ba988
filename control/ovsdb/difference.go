package ovsdb

import (
	"fmt"
	"maps"
	"slices"
)

// changed returns a column's value after a modification, given as its
// difference to the value before (ovsdb-server(7), update2). Sets and maps
// come as what is in one of the two only, all else as it is now. Neither
// argument is changed.
func changed(old, diff any) (any, error) {
	switch d := diff.(type) {
	case []string:
		return toggled(old.([]string), d), nil
	case []int:
		return toggled(old.([]int), d), nil
	case map[string]string:
		return merged(old.(map[string]string), d), nil
	case map[string]int:
		return merged(old.(map[string]int), d), nil
	case string, bool, int, float64, *string, *bool, *int, *float64:
		return diff, nil
	}
	return nil, fmt.Errorf("difference of type %T", diff)
}

// toggled takes from old what is in diff, and adds what was not in old.
func toggled[T comparable](old, diff []T) []T {
	in := make(map[T]bool, len(diff))
	for _, v := range diff {
		in[v] = true
	}
	now := make([]T, 0, len(old)+len(diff))
	for _, v := range old {
		if in[v] {
			delete(in, v)
			continue
		}
		now = append(now, v)
	}
	for _, v := range diff { // in its order
		if in[v] {
			delete(in, v)
			now = append(now, v)
		}
	}
	return slices.Clip(now)
}

// merged takes from old the pairs that are in diff, and sets the others.
func merged[V comparable](old, diff map[string]V) map[string]V {
	now := maps.Clone(old)
	if now == nil {
		now = make(map[string]V, len(diff))
	}
	for k, v := range diff {
		if was, ok := now[k]; ok && was == v {
			delete(now, k)
			continue
		}
		now[k] = v
	}
	return now
}
