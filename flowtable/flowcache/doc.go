// Package flowcache remembers what walks through the flow table came to: from
// keys to composed programs, for one worker each, outside the Go heap. An entry
// is exact or under one of a bounded number of wildcard masks, so that no mix of
// packets makes a lookup cost more than a few probes.
package flowcache
