package ovsdb

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	libmodel "github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/model"
)

// TestShapes: there is a plan for every struct that modelgen makes.
func TestShapes(t *testing.T) {
	for _, m := range []func() (libmodel.ClientDBModel, error){model.FullDatabaseModel, flowmodel.FullDatabaseModel} {
		db, err := m()
		if err != nil {
			t.Fatal(err)
		}
		schema := map[string]ovsdb.DatabaseSchema{"Open_vSwitch": model.Schema(), "Millrace": flowmodel.Schema()}[db.Name()]
		full, errs := libmodel.NewDatabaseModel(schema, db)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		for table := range schema.Tables {
			row, err := full.NewModel(table)
			if err != nil {
				t.Fatal(err)
			}
			s, err := newShape(row)
			if err != nil {
				t.Errorf("%s: %v", table, err)
				continue
			}
			for column := range schema.Tables[table].Columns {
				if _, ok := s.columns[column]; !ok && column != "_uuid" && column != "_version" {
					t.Errorf("%s.%s: no plan", table, column)
				}
			}
		}
	}
}

// byNotation reads a row as libovsdb does.
func byNotation(db libmodel.DatabaseModel, text []byte) (row any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	var columns ovsdb.Row
	if err := json.Unmarshal(text, &columns); err != nil {
		return nil, err
	}
	m, err := db.NewModel(model.InterfaceTable)
	if err != nil {
		return nil, err
	}
	info, err := db.NewModelInfo(m)
	if err != nil {
		return nil, err
	}
	return m, db.Mapper.GetRowData(&columns, info)
}

// tidy makes empty sets and maps alike.
func tidy(row any) any {
	v := reflect.ValueOf(row).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); (f.Kind() == reflect.Slice || f.Kind() == reflect.Map) && f.Len() == 0 {
			f.SetZero()
		}
	}
	return v.Interface()
}

// FuzzShape: no text makes the reader panic, and a row that libovsdb reads as well
// is the same for both.
func FuzzShape(f *testing.F) {
	for _, s := range []string{
		`{"name":"p\u0041\"","ofport":5,"options":["map",[["a","1"],["b","2"]]],"statistics":["map",[["n",7]]],"mtu":["set",[]]}`,
		`{"ofport":["set",[5]],"bfd_status":["map",[]],"link_speed":1e3,"lldp":["set",[]],"ingress_policing_rate":-1}`,
		`{"name":5}`, `{"name":["uuid","x"]}`, `{"ofport":["set",[1,2]]}`, `{"options":["map",[["a"]]]}`, `{"nonsense":1}`, `{"name":"x"`, `{"name":"\`, ` { } `,
	} {
		f.Add([]byte(s))
	}
	s, err := newStore(model.Schema(), []Table{{Name: model.InterfaceTable, Row: &model.Interface{}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in := &scanner{text: text, known: s.known}
		row := s.shapes[model.InterfaceTable].fresh(in, "")
		if in.err == nil && in.peek() != 0 {
			return // more than a row
		}
		skipped := &scanner{text: text}
		if skipped.skip(); in.err == nil && skipped.err != nil {
			t.Fatalf("%q can be read, and not be passed over: %v", text, skipped.err)
		}
		if in.err != nil || !json.Valid(text) {
			return
		}
		if want, err := byNotation(s.db, text); err == nil && !reflect.DeepEqual(tidy(row), tidy(want)) {
			t.Fatalf("%s\nis %+v\nand for libovsdb %+v", text, row, want)
		}
	})
}
