package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// rowSwaps put one generation of rows in the place of the other, each in one
// transaction of the Millrace database.
type rowSwaps struct {
	r  *rowChanger
	to [2][]any // operations
}

// flowColumns are what a row says.
var flowColumns = []string{"bridge", "table", "priority", "match", "actions", "cookie"}

// newRowSwaps remembers the rows that there are: those of the first generation.
func newRowSwaps(ctx context.Context, o *ours) (*rowSwaps, error) {
	r, err := dialRows(ctx, filepath.Join(o.runDir, "db.sock"))
	if err != nil {
		return nil, err
	}
	s := &rowSwaps{r: r}
	if err := s.learn(0); err != nil {
		return nil, errors.Join(err, r.conn.Close())
	}
	return s, nil
}

// learn takes the rows that there are for those of a generation.
func (s *rowSwaps) learn(generation int) error {
	rows, err := s.rows([]any{}, flowColumns...)
	if err != nil {
		return err
	}
	ops := []any{map[string]any{"op": "delete", "table": "Flow", "where": []any{}}}
	for _, row := range rows {
		ops = append(ops, map[string]any{"op": "insert", "table": "Flow", "row": row})
	}
	s.to[generation] = ops
	return nil
}

// rows are those that meet a condition.
func (s *rowSwaps) rows(where []any, columns ...string) ([]json.RawMessage, error) {
	var answer []struct {
		Rows []json.RawMessage `json:"rows"`
	}
	if err := s.r.transact(&answer, map[string]any{"op": "select", "table": "Flow", "where": where, "columns": columns}); err != nil {
		return nil, err
	}
	return answer[0].Rows, nil
}

// settle waits until all rows say that they are in force: control is idle then.
func (s *rowSwaps) settle() error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		rows, err := s.rows([]any{[]any{"status", "!=", "active"}}, "cookie")
		if err != nil || len(rows) == 0 {
			return err
		}
	}
	return fmt.Errorf("rows that say that they are in force: %w", errNotReady)
}

// commit makes one transaction, and returns when the database has answered.
func (s *rowSwaps) commit(generation int) error {
	var results []json.RawMessage
	return s.r.transact(&results, s.to[generation]...)
}

func (s *rowSwaps) close() { s.r.close() }
