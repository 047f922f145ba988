package control

import (
	"time"

	"millrace/control/flows"
)

// A Status is control's account of itself, as control.json in the run
// directory has it.
type Status struct {
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Written  time.Time `json:"written"` // when the rest was true
	Database Database  `json:"database"`

	Dataplane bool     `json:"dataplane"` // connected
	Ports     int      `json:"ports"`     // in the dataplane
	BadRows   []string `json:"bad_rows"`  // what is wrong with which row
	Problems  []string `json:"problems"`  // what else is not as it should be, with remedies
	Counters  Counters `json:"counters"`
	Flows     Flows    `json:"flows"`
}

// Flows says how rows of the Millrace database are.
type Flows struct {
	Database  Database `json:"database"`
	Available bool     `json:"available"` // there are a database and a dataplane that have flows
	Reason    string   `json:"reason"`    // why not, in words
	flows.Tally

	Changes      uint64  `json:"changes"`      // made to the flow table
	Failures     uint64  `json:"failures"`     // changes that the dataplane refused
	Transactions uint64  `json:"transactions"` // made in the database
	LastSeconds  float64 `json:"last_seconds"` // how long the last transaction of the flow table took, from rows to in force
}

// A Database says how control and its database are.
type Database struct {
	Endpoint  string    `json:"endpoint"` // connected to, or last
	Connected bool      `json:"connected"`
	Owner     bool      `json:"owner"`   // holds the database's lock
	Since     time.Time `json:"since"`   // when connected became what it is
	Error     string    `json:"error"`   // why it is not connected
	Offline   bool      `json:"offline"` // what is wanted comes from the file of the last run
}

// Counters count since control began.
type Counters struct {
	Passes       uint64  `json:"passes"`
	Changes      uint64  `json:"changes"`      // made to the dataplane
	Failures     uint64  `json:"failures"`     // changes that the dataplane refused
	BadRows      uint64  `json:"bad_rows"`     // rows that became bad
	Transactions uint64  `json:"transactions"` // made in the database
	Sessions     uint64  `json:"sessions"`     // with a dataplane
	Last         string  `json:"last"`         // last pass that changed something: "3 ports, 1.2ms"
	LastSeconds  float64 `json:"last_seconds"` // how long it took
}
