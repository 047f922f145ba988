package ovsdb

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
	"go.uber.org/zap"
)

var (
	// ErrNotConnected says that there is no connection to the database now.
	ErrNotConnected = errors.New("not connected to the database")
	// ErrNoDatabase says that the server does not have the database.
	ErrNoDatabase = errors.New("the server does not have the database")
)

// Times of a connection.
const (
	backoffMin  = 20 * time.Millisecond // before the second round through the endpoints
	backoffMax  = time.Second           // between later rounds
	backoffNear = 50 * time.Millisecond // instead, where all endpoints are of this host: a round costs nothing there
	dialTimeout = 5 * time.Second       // to connect to one endpoint, and to ask for the lock
	loadSilence = 30 * time.Second      // of a server that is asked for its tables
	probeEvery  = 5 * time.Second       // between echoes
	absentEvery = 10 * time.Second      // between looks for a database that a server does not have
	startTime   = 2 * time.Second       // that a server which is started beside us may take to have its socket
)

// A Config says what to connect to.
type Config struct {
	Endpoints []string             // tried in turn; see ParseEndpoint
	TLS       *tls.Config          // for ssl endpoints
	Schema    ovsdb.DatabaseSchema // of the database, as the structs were made from it
	Tables    []Table
	Lock      string // to be held while connected (RFC 7047 section 4.1.8); empty: none
	Optional  bool   // servers may not have the database: Err is ErrNoDatabase then, until they have
	Log       *zap.Logger
}

// A Client keeps up with some tables of one database.
type Client struct {
	cfg       Config
	endpoints []Endpoint
	store     *store // the reader's; its model is anybody's

	ready chan struct{} // has room for one: Take has something
	mu    sync.Mutex    // guards what follows
	conn  *conn         // nil while not connected
	owner bool          // the lock is ours
	reset bool          // pend has all rows
	pend  pending
	err   error // why there is no connection
	at    string

	start  time.Time // Run's: when it began
	told   bool      // Run's: the log says that there is no connection, or said it when there was none
	missed bool      // Run's: the log says that the server does not have the database
}

// New makes a client that Run connects.
func New(cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("%w: none is given", ErrEndpoint)
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	c := &Client{cfg: cfg, ready: make(chan struct{}, 1), err: ErrNotConnected}
	for _, s := range cfg.Endpoints {
		e, err := ParseEndpoint(s)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, e)
	}
	var err error
	c.store, err = newStore(cfg.Schema, cfg.Tables)
	return c, err
}

// Ready has a value when Take has something new.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Take returns what has changed since the last call.
func (c *Client) Take() Batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := Batch{Reset: c.reset, Changes: c.pend.list, Connected: c.conn != nil, Owner: c.conn != nil && c.owner}
	c.reset, c.pend = false, pending{}
	return b
}

// Err is why there is no connection, or nil when there is one.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Endpoint is where the client is connected, or was last.
func (c *Client) Endpoint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Run connects, and connects again whenever the connection ends, until ctx
// ends.
func (c *Client) Run(ctx context.Context) {
	c.start = time.Now()
	wait := backoffMin
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Now()
		err := c.serve(ctx, c.endpoints[i%len(c.endpoints)])
		if time.Since(began) > backoffMax {
			wait = backoffMin
		}
		c.lost(ctx, err)
		if (i+1)%len(c.endpoints) != 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, c.longest())
	}
}

// longest is the longest wait between rounds. A server that starts beside us reads
// its files first: it is not to wait for us when it has.
func (c *Client) longest() time.Duration {
	if slices.ContainsFunc(c.endpoints, func(e Endpoint) bool { return e.scheme != "unix" }) {
		return backoffMax
	}
	return backoffNear
}

// lost notes that there is no connection, and why. The rows stay.
func (c *Client) lost(ctx context.Context, err error) {
	c.mu.Lock()
	had := c.conn != nil
	c.conn, c.owner = nil, false
	c.err = err
	c.mu.Unlock()
	switch {
	case ctx.Err() != nil: // it is we who end it
	case had:
		c.told = true
		c.cfg.Log.Warn("database lost: the configuration stays as it is", zap.Error(err))
	case c.told:
	case errors.Is(err, fs.ErrNotExist) && time.Since(c.start) < startTime: // its server is starting, as we are
	default:
		c.told = true
		c.cfg.Log.Warn("database not reached: trying again", zap.Error(err))
	}
	c.signal()
}

func (c *Client) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// serve speaks to one endpoint until the connection or ctx ends.
func (c *Client) serve(ctx context.Context, e Endpoint) error {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := e.dial(dialing, c.cfg.TLS)
	if err != nil {
		return err
	}
	k := newConn(raw, c.notified)
	defer func() {
		k.close(ErrNotConnected)
		<-k.gone // the store is the next reader's
	}()
	stop := context.AfterFunc(ctx, func() { k.close(ctx.Err()) })
	defer stop()
	err = c.await(ctx, k, e)
	if err == nil {
		err = c.begin(ctx, k, e)
	}
	if err != nil {
		return fmt.Errorf("database at %s: %w", e, err)
	}
	go probe(ctx, k)
	<-k.done
	return fmt.Errorf("database at %s: %w", e, k.cause())
}

// await returns when the server has the database, if it may be without.
func (c *Client) await(ctx context.Context, k *conn, e Endpoint) error {
	for c.cfg.Optional {
		var names []string
		one, cancel := k.attentive(ctx, dialTimeout)
		err := k.call(one, "list_dbs", []any{}, &names)
		cancel()
		if err != nil || slices.Contains(names, c.cfg.Schema.Name) {
			return err
		}
		c.absent(e)
		select {
		case <-k.done:
			return k.cause()
		case <-time.After(absentEvery):
		}
	}
	return nil
}

// absent notes that a server does not have the database.
func (c *Client) absent(e Endpoint) {
	if !c.missed {
		c.missed, c.told = true, true
		c.cfg.Log.Info("the server has no such database", zap.String("database", c.cfg.Schema.Name), zap.Stringer("endpoint", e))
	}
	c.mu.Lock()
	fresh := !errors.Is(c.err, ErrNoDatabase)
	c.err, c.at = fmt.Errorf("%w %s: %s", ErrNoDatabase, c.cfg.Schema.Name, e), e.String()
	c.mu.Unlock()
	if fresh {
		c.signal()
	}
}

// begin takes the lock and reads the tables, which may be large.
func (c *Client) begin(ctx context.Context, k *conn, e Endpoint) error {
	locking, unlock := context.WithTimeout(ctx, dialTimeout)
	defer unlock()
	if err := c.lock(locking, k); err != nil {
		return err
	}
	ctx, cancel := k.attentive(ctx, loadSilence)
	defer cancel()
	// The answer must be in the store before the first update is: both are
	// handled by the reader, so it is the reader that stores the answer.
	began := func(rows json.RawMessage) error { return c.began(k, e, rows) }
	if err := k.callThen(ctx, "monitor_cond", []any{c.cfg.Schema.Name, monitorID, c.requests()}, nil, began); err != nil {
		return err
	}
	c.cfg.Log.Info("database connected", zap.Stringer("endpoint", e))
	return nil
}

// lock asks for the lock. The reader notes the answer: that we have got it
// after all may be the next that the server says.
func (c *Client) lock(ctx context.Context, k *conn) error {
	if c.cfg.Lock == "" {
		c.own(true)
		return nil
	}
	var got struct {
		Locked bool `json:"locked"`
	}
	return k.callThen(ctx, "lock", []any{c.cfg.Lock}, &got, func(result json.RawMessage) error {
		err := json.Unmarshal(result, &got)
		if err == nil {
			c.own(got.Locked)
		}
		return err
	})
}

// own notes whether the lock is ours.
func (c *Client) own(owner bool) {
	c.mu.Lock()
	c.owner = owner
	c.mu.Unlock()
}

// probe makes sure that the server is there: one that does not answer an echo,
// and says nothing else, until the next is due is not.
func probe(ctx context.Context, k *conn) {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		select {
		case <-k.done:
			return
		case <-t.C:
		}
		one, cancel := k.attentive(ctx, probeEvery)
		var echoed []any
		err := k.call(one, "echo", []any{"probe"}, &echoed)
		cancel()
		if err != nil {
			k.close(fmt.Errorf("%w: no answer to a probe: %w", ErrLost, err))
		}
	}
}

// monitorID names our one monitor.
const monitorID = "millrace"

// A monitorRequest is one <monitor-request> (RFC 7047 section 4.1.5; ovsdb-server(7), monitor_cond).
type monitorRequest struct {
	Columns []string        `json:"columns"`
	Select  map[string]bool `json:"select"`
}

// requests asks for the watched columns always, and for the others with new
// rows only.
func (c *Client) requests() map[string][]monitorRequest {
	all := make(map[string][]monitorRequest, len(c.cfg.Tables))
	for _, t := range c.cfg.Tables {
		all[t.Name] = []monitorRequest{{t.Watch, map[string]bool{"initial": true, "insert": true, "delete": true, "modify": true}}}
		if len(t.Once) > 0 {
			all[t.Name] = append(all[t.Name], monitorRequest{t.Once, map[string]bool{"initial": true, "insert": true, "delete": false, "modify": false}})
		}
	}
	return all
}

// began stores what the tables had when the monitor began. Who takes these
// rows finds the connection that they came over.
func (c *Client) began(k *conn, e Endpoint, rows json.RawMessage) error {
	c.store.forget()
	return c.took(rows, func() {
		c.conn, c.err, c.at = k, nil, e.String()
		c.reset, c.pend = true, pending{}
	})
}

// notified handles what the server tells unasked.
func (c *Client) notified(method string, params json.RawMessage) error {
	switch method {
	case "update2":
		rows, err := second(params)
		if err != nil {
			return fmt.Errorf("update from the database: %w", err)
		}
		return c.took(rows, nil)
	case "locked", "stolen":
		c.own(method == "locked")
		c.signal()
	case "monitor_canceled":
		return fmt.Errorf("%w: it serves the database no more", ErrLost)
	}
	return nil
}

// second is the second element of an array of two.
func second(params json.RawMessage) (json.RawMessage, error) {
	in := &scanner{text: params}
	var parts [][]byte
	in.array(func() { parts = append(parts, in.skip()) })
	if in.err == nil && len(parts) != 2 {
		in.fail("expected the monitor and what has changed")
	}
	if in.err != nil {
		return nil, in.err
	}
	return parts[1], nil
}

// took stores one update, which is one transaction; before, which may be nil, runs, under
// c.mu, before its changes are there for Take.
func (c *Client) took(update json.RawMessage, before func()) error {
	changes, err := c.store.apply(update)
	if err != nil {
		return fmt.Errorf("update from the database: %w", err)
	}
	if before == nil && len(changes) == 0 {
		return nil
	}
	c.mu.Lock()
	if before != nil {
		before()
	}
	c.pend.add(changes)
	c.mu.Unlock()
	c.signal()
	return nil
}

// Transact makes the operations one transaction. The error is ErrNotConnected,
// ErrLost (nobody knows), or what the database says.
func (c *Client) Transact(ctx context.Context, ops ...ovsdb.Operation) error {
	c.mu.Lock()
	k := c.conn
	c.mu.Unlock()
	if k == nil {
		return ErrNotConnected
	}
	var results []ovsdb.OperationResult
	if err := k.call(ctx, "transact", ovsdb.NewTransactArgs(c.cfg.Schema.Name, ops...), &results); err != nil {
		return err
	}
	if _, err := ovsdb.CheckOperationResults(results, ops); err != nil {
		return fmt.Errorf("transact: %w", err)
	}
	return nil
}

// TransactText is Transact for operations that are JSON already, separated by
// commas: n of them.
func (c *Client) TransactText(ctx context.Context, ops []byte, n int) error {
	c.mu.Lock()
	k := c.conn
	c.mu.Unlock()
	if k == nil {
		return ErrNotConnected
	}
	params := append(append([]byte(`["`), c.cfg.Schema.Name...), `",`...)
	params = append(append(params, ops...), ']')
	var results []*Result
	if err := k.callRaw(ctx, "transact", params, &results); err != nil {
		return err
	}
	if _, err := outcome(results, n); err != nil {
		return fmt.Errorf("transact: %w", err)
	}
	return nil
}
