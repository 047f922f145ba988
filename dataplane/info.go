package dataplane

import (
	"errors"
	"time"
)

// Errors that callers tell apart.
var (
	ErrNoPort    = errors.New("no such port")
	ErrNoBridge  = errors.New("no such bridge")
	ErrNoEntry   = errors.New("no such entry")
	ErrExists    = errors.New("exists with other settings")
	ErrBadSpec   = errors.New("bad setting")
	ErrBadType   = errors.New("unknown port type")
	ErrBusy      = errors.New("still being closed: try again later")
	ErrBadCPUs   = errors.New("workers cannot be there")
	ErrIsClosing = errors.New("the switch is shutting down")
)

// PollMode says what a worker without traffic does.
type PollMode string

// The poll modes.
const (
	PollBusy     PollMode = "busy"     // spins
	PollAdaptive PollMode = "adaptive" // spins a little, then sleeps until a peer kicks
)

// A BridgeInfo is a bridge as it is. Bridges come with their first port and go
// with their last.
type BridgeInfo struct {
	Name      string
	Ports     []string
	MACs      int // addresses in the table
	MACsMax   int
	MACAge    time.Duration
	Flood     []uint16 // VLANs without learning
	Pipeline  Pipeline
	Learned   uint64 // entries made by learning
	Moved     uint64 // addresses that came from another port than before
	Refused   uint64 // addresses not learned for want of room or by a port's limit
	Evicted   uint64
	Forgotten uint64 // aged out
}

// A Snapshot is the account of the switch between two turns of its workers.
type Snapshot struct {
	At      time.Time
	Started time.Time
	TSCHz   float64
	Ports   []PortStats   // also of ports that are gone, summed as "(removed)", if there were any
	Workers []WorkerStats // those that there are; what others counted of ports is in Ports
}

// EventKind says what happened to a port.
type EventKind string

// The kinds of events.
const (
	EventAdded   EventKind = "added"
	EventRemoved EventKind = "removed"
	EventChanged EventKind = "changed"
)

// An Event tells of a port.
type Event struct {
	Kind EventKind
	Port PortInfo
}
