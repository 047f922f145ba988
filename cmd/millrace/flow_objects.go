package main

import (
	"context"
	"time"

	"millrace/control/flows"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
)

// flowObjects says what sets, meters and groups of the dataplane are: by the names that
// the Millrace database has for them, or else by what is in them. Both are asked when
// somebody wants to know, and not again.
type flowObjects struct {
	ctx     context.Context // of the command
	app     *app
	client  *api.Client
	bridges []string

	numbers   *flows.Numbers // nil: not asked yet
	listed    bool
	err       error // of the dataplane's listing
	sets      map[flowtable.SetID]*heldSet
	meters    map[flowtable.MeterID]string // rates
	buckets   map[flowtable.SelectID][]flowtable.Bucket
	datapaths map[flowtable.GroupID][]uint64
}

// A heldSet is a set of the dataplane.
type heldSet struct {
	width uint8
	first []flowtable.Member // those of the first message that has some
	n     int
}

// namesTimeout is how long a command waits for a database, which it can do without.
const namesTimeout = 2 * time.Second

// known returns what the names of the database stand for: nothing, if it is not reached.
func (o *flowObjects) known() *flows.Numbers {
	if o.numbers == nil {
		ctx, cancel := context.WithTimeout(o.ctx, namesTimeout)
		defer cancel()
		named, err := o.app.flowNames(ctx)
		if err != nil {
			named = &flows.Named{}
		}
		named.Bridges = o.bridges
		o.numbers = named.Numbers()
	}
	return o.numbers
}

// flowNames asks the Millrace database for the names of its rows.
func (a *app) flowNames(ctx context.Context) (*flows.Named, error) {
	var f dbFlags
	endpoints, _ := f.where(a.runDir)
	named := &flows.Named{}
	lists := map[string]*[]string{
		flowmodel.AddressSetTable: &named.AddressSets, flowmodel.PortGroupTable: &named.PortGroups,
		flowmodel.MeterTable: &named.Meters, flowmodel.GroupTable: &named.Groups,
	}
	tables := []ovsdb.Table{
		{Name: flowmodel.AddressSetTable, Row: &flowmodel.AddressSet{}, Watch: []string{"name"}},
		{Name: flowmodel.PortGroupTable, Row: &flowmodel.PortGroup{}, Watch: []string{"name"}},
		{Name: flowmodel.MeterTable, Row: &flowmodel.Meter{}, Watch: []string{"name"}},
		{Name: flowmodel.GroupTable, Row: &flowmodel.Group{}, Watch: []string{"name"}},
	}
	d, err := ovsdb.Dial(ctx, ovsdb.Config{Endpoints: endpoints, Schema: flowmodel.Schema(), Tables: tables})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for table, list := range lists {
		rows, err := d.Select(ctx, table, []any{})
		if err != nil {
			return nil, err
		}
		for i := range rows {
			*list = append(*list, describeNamed(&rows[i], nil).name)
		}
	}
	return named, nil
}

// list asks the dataplane, and returns what went wrong.
func (o *flowObjects) list() error {
	if o.listed {
		return o.err
	}
	o.listed = true
	o.sets, o.meters = map[flowtable.SetID]*heldSet{}, map[flowtable.MeterID]string{}
	o.buckets, o.datapaths = map[flowtable.SelectID][]flowtable.Bucket{}, map[flowtable.GroupID][]uint64{}
	s, err := o.client.Flows.ListObjects(o.ctx, &api.ListObjectsRequest{})
	o.err = each(s, err, o.note)
	return o.err
}

// note takes a message of the listing. What cannot be read has only a number.
func (o *flowObjects) note(m *api.ListObjectsResponse) {
	for _, x := range m.GetSets() {
		s, members, err := flowapi.FromSet(x)
		switch held := o.sets[s.ID]; {
		case err != nil:
		case held == nil:
			o.sets[s.ID] = &heldSet{s.Width, members, len(members)}
		default: // a large one comes in several messages
			held.n += len(members)
		}
	}
	for _, x := range m.GetMeters() {
		meter := flowapi.FromMeter(x)
		o.meters[meter.ID] = flows.MeterText(&meter)
	}
	for _, x := range m.GetSelects() {
		if s, err := flowapi.FromSelect(x); err == nil {
			o.buckets[s.ID] = s.Buckets
		}
	}
	for _, x := range m.GetGroups() {
		id := flowtable.GroupID(x.GetId())
		o.datapaths[id] = append(o.datapaths[id], x.GetDatapaths()...)
	}
}

func (o *flowObjects) set(id uint32) string {
	if name := o.known().Sets[flowtable.SetID(id)]; name != "" || o.list() != nil {
		return name
	}
	s := o.sets[flowtable.SetID(id)]
	if s == nil {
		return ""
	}
	return flows.SetText(s.width, s.first, s.n)
}

func (o *flowObjects) meter(id uint32) string {
	if name := o.known().Meters[flowtable.MeterID(id)]; name != "" || o.list() != nil {
		return name
	}
	return o.meters[flowtable.MeterID(id)]
}

func (o *flowObjects) group(id uint32) string { return o.known().Group(flowtable.SelectID(id)) }

func (o *flowObjects) bucketsOf(id uint32) []flowtable.Bucket {
	if o.list() != nil {
		return nil
	}
	return o.buckets[flowtable.SelectID(id)]
}
