package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"millrace/perf/ruleset"
)

// rowChanger changes Flow rows of the Millrace database (RFC 7047, 5.2.3), over
// a connection that stays open. It returns as soon as the database has answered:
// the switch follows.
type rowChanger struct {
	conn  net.Conn
	out   *json.Encoder
	in    *json.Decoder
	id    int
	gated string // UUID
	idles []string
}

// flowRow is a row as select returns it.
type flowRow struct {
	UUID     [2]string `json:"_uuid"`
	Priority int       `json:"priority"`
}

// newRowChanger connects, and looks for the rows that are changed.
func newRowChanger(ctx context.Context, socket string) (*rowChanger, error) {
	r, err := dialRows(ctx, socket)
	if err != nil {
		return nil, err
	}
	if err := r.find(); err != nil {
		return nil, errors.Join(err, r.conn.Close())
	}
	return r, nil
}

// dialRows connects.
func dialRows(ctx context.Context, socket string) (*rowChanger, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return &rowChanger{conn: conn, out: json.NewEncoder(conn), in: json.NewDecoder(conn)}, nil
}

// find looks for the rows of ruleset.Gate.
func (r *rowChanger) find() error {
	var answer []struct {
		Rows []flowRow `json:"rows"`
	}
	if err := r.transact(&answer, map[string]any{"op": "select", "table": "Flow", "where": []any{}, "columns": []string{"_uuid", "priority"}}); err != nil {
		return err
	}
	for _, row := range answer[0].Rows {
		switch row.Priority {
		case ruleset.GatePriority:
			r.gated = row.UUID[1]
		case ruleset.IdlePriority:
			r.idles = append(r.idles, row.UUID[1])
		}
	}
	if slices.Sort(r.idles); r.gated == "" || r.idles == nil {
		return fmt.Errorf("find the rows to change among %d: %w", len(answer[0].Rows), errNotReady)
	}
	return nil
}

// transact makes one transaction and reads its results.
func (r *rowChanger) transact(results any, ops ...any) error {
	r.id++
	if err := r.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if err := r.out.Encode(map[string]any{"method": "transact", "params": append([]any{"Millrace"}, ops...), "id": r.id}); err != nil {
		return err
	}
	var answer struct {
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
		ID     any             `json:"id"`
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	for {
		if err := r.in.Decode(&answer); err != nil {
			return fmt.Errorf("database: %w", err)
		}
		if answer.Method != "echo" {
			break
		}
		if err := r.out.Encode(map[string]any{"result": answer.Params, "error": nil, "id": answer.ID}); err != nil {
			return err
		}
		answer.Method = ""
	}
	if problem := string(answer.Error); problem != "" && problem != "null" {
		return fmt.Errorf("database: %s", problem)
	}
	if strings.Contains(string(answer.Result), `"error"`) {
		return fmt.Errorf("database: %s", answer.Result)
	}
	return json.Unmarshal(answer.Result, results)
}

func (r *rowChanger) name() string { return "database" }

func (r *rowChanger) gate(_ context.Context, alt bool) error { return r.lead(r.gated, alt) }

func (r *rowChanger) idle(_ context.Context, rule int, alt bool) error {
	return r.lead(r.idles[rule%len(r.idles)], alt)
}

func (r *rowChanger) lead(uuid string, alt bool) error {
	rule := ruleset.Rule{Output: "p1"}
	if alt {
		rule.Output = "p3"
	}
	var results []struct {
		Count int `json:"count"`
	}
	err := r.transact(&results, map[string]any{
		"op": "update", "table": "Flow", "where": []any{[]any{"_uuid", "==", []string{"uuid", uuid}}}, "row": map[string]string{"actions": rule.Actions()},
	})
	if err == nil && results[0].Count != 1 {
		err = fmt.Errorf("change a row of the database: %d rows changed: %w", results[0].Count, errNotReady)
	}
	return err
}

func (r *rowChanger) close() { _ = r.conn.Close() }
