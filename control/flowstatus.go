package control

import (
	"errors"

	"millrace/control/ovsdb"
)

// flowStatus is the account of flows.
func (l *loop) flowStatus() Flows {
	f, s := l.flow, l.status.Flows
	s.Tally = f.book.Tally()
	d := &s.Database
	d.Connected, d.Owner, d.Endpoint, d.Error = f.connected, f.owner, f.db.Endpoint(), ""
	err := f.db.Err()
	if err != nil {
		d.Error = err.Error()
	}
	switch {
	case errors.Is(err, ovsdb.ErrNoDatabase):
		s.Reason = "the database server does not have the Millrace database"
	case !f.seen:
		s.Reason = "the Millrace database has not been reached"
	case l.session == nil:
		s.Reason = "no dataplane"
	default:
		s.Reason = f.without
	}
	s.Available = s.Reason == ""
	return s
}

// flowProblems says what keeps flows that somebody wants from being in force.
func (l *loop) flowProblems() []string {
	f, err := l.flow, l.flow.db.Err()
	wanted := l.want != nil && l.want.RunFlows()
	var p []string
	switch {
	case !wanted && f.book.Tally().Rows == 0:
	case errors.Is(err, ovsdb.ErrNoDatabase):
		p = append(p, "a bridge runs flows, but the database server does not have the Millrace database: serve millrace.ovsschema as well (ovsdb-tool create, ovs-appctl ovsdb-server/add-db)")
	case f.connected && !f.owner:
		p = append(p, "another control holds the Millrace database's lock "+flowsLock+": stop it")
	case f.without != "" && l.session != nil:
		p = append(p, "no flows in the dataplane: "+f.without)
	}
	return p
}
