package server

import (
	"crypto/tls"
	"time"

	"go.uber.org/zap"
)

// Limits that a Config has where it says nothing.
const (
	DefaultMaxMessage  = 64 << 20
	DefaultMaxQueue    = 64 << 20
	DefaultMaxSessions = 1024
	DefaultProbe       = 60 * time.Second
	// CompactFrom is the size under which a file is never compacted by itself.
	CompactFrom = 10 << 20
)

// ManagerOptions is the element of Config.Remotes for the endpoints of
// ovs-vsctl set-manager.
const ManagerOptions = "db:Open_vSwitch,Open_vSwitch,manager_options"

// A Database says where a database is kept.
type Database struct {
	Path   string // the log file; made if it is missing
	Schema string // text of the schema
}

// A Config says what to serve, and where.
type Config struct {
	Databases []Database
	// Listen holds endpoints as ovsdb-server's --remote has them:
	// punix:PATH, ptcp:PORT[:ADDRESS], pssl:PORT[:ADDRESS].
	Listen []string
	// Remotes holds columns with further endpoints, as --remote=db:... of
	// ovsdb-server has them: ManagerOptions is what ovs-vsctl set-manager writes.
	// Their rows may ask for connections too: tcp:HOST:PORT, ssl:HOST:PORT,
	// unix:PATH.
	Remotes []string
	// TLS is for pssl and ssl. If it is nil, remotes use the files that the SSL
	// row of their database names; they are read again when they change.
	TLS *tls.Config
	Log *zap.Logger // nil: none

	MaxMessage  int           // bytes of one request, and of all that a client has waiting
	MaxQueue    int           // bytes for a client that does not read them; then it is cut off
	MaxSessions int           // connections at a time, of all of Listen and of each remote
	Probe       time.Duration // silence after which a client is asked for an echo; negative: never
}

// withDefaults returns c with what was left out.
func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = DefaultMaxMessage
	}
	if c.MaxQueue == 0 {
		c.MaxQueue = DefaultMaxQueue
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = DefaultMaxSessions
	}
	if c.Probe == 0 {
		c.Probe = DefaultProbe
	}
	return c
}

// Stats are counts of a running server.
type Stats struct {
	Sessions  int
	Cut       uint64 // clients cut off because they did not read, or sent nonsense
	Databases []DatabaseStats
}

// DatabaseStats are counts of one database.
type DatabaseStats struct {
	Name         string         `json:"name"`
	Path         string         `json:"path"`    // of the file
	Version      string         `json:"version"` // of its schema
	Rows         int            `json:"rows"`
	Tables       map[string]int `json:"tables"` // rows of each table that has any
	Monitors     int            `json:"monitors"`
	Waiting      int            `json:"waiting"`      // transactions that wait
	Transactions uint64         `json:"transactions"` // that changed something, since the start
	FileSize     int64          `json:"file_size"`    // bytes
	Compactions  uint64         `json:"compactions"`  // since the start
	Compacted    time.Time      `json:"compacted"`    // when the last one ended; zero: none since the start
	Sessions     int            `json:"sessions"`     // clients of the server; in answers to MethodStats and MethodCompact only
}
