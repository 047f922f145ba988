// Command libovsdb080 writes and reads with libovsdb v0.8.0, another version
// than millrace's own. Its argument is the endpoint; it prints ok.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

type bridge struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}

type root struct {
	UUID    string   `ovsdb:"_uuid"`
	Bridges []string `ovsdb:"bridges"`
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok")
}

// run makes a bridge, changes it, and has it collected as garbage.
func run(ctx context.Context, endpoint string) error {
	m, err := model.NewClientDBModel("Open_vSwitch", map[string]model.Model{"Bridge": &bridge{}, "Open_vSwitch": &root{}})
	if err != nil {
		return err
	}
	log := logr.Discard()
	c, err := client.NewOVSDBClient(m, client.WithEndpoint(endpoint), client.WithLogger(&log))
	if err != nil {
		return err
	}
	if err := c.Connect(ctx); err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.MonitorAll(ctx); err != nil {
		return err
	}
	ops, err := c.Create(&bridge{UUID: "b", Name: "br080"}, &root{UUID: "r", Bridges: []string{"b"}})
	if err != nil {
		return err
	}
	if err := transact(ctx, c, ops); err != nil {
		return err
	}
	b := &bridge{Name: "br080"}
	if err := until(ctx, "bridge", func() bool { return c.Get(ctx, b) == nil }); err != nil {
		return err
	}
	ops, err = c.Where(b).Mutate(b, model.Mutation{Field: &b.ExternalIDs, Mutator: ovsdb.MutateOperationInsert, Value: map[string]string{"a": "1"}})
	if err != nil {
		return err
	}
	if err := transact(ctx, c, ops); err != nil {
		return err
	}
	if err := until(ctx, "external id", func() bool { return c.Get(ctx, b) == nil && b.ExternalIDs["a"] == "1" }); err != nil {
		return err
	}
	var roots []root
	if err := c.List(ctx, &roots); err != nil || len(roots) != 1 {
		return fmt.Errorf("%d roots, %w", len(roots), err)
	}
	if ops, err = c.Where(&roots[0]).Delete(); err != nil {
		return err
	}
	if err := transact(ctx, c, ops); err != nil {
		return err
	}
	return until(ctx, "garbage collection", func() bool { return c.Get(ctx, b) != nil })
}

func transact(ctx context.Context, c client.Client, ops []ovsdb.Operation) error {
	res, err := c.Transact(ctx, ops...)
	if err != nil {
		return err
	}
	_, err = ovsdb.CheckOperationResults(res, ops)
	return err
}

// until waits for what must come.
func until(ctx context.Context, what string, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("never came: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}
