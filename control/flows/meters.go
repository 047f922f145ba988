package flows

import (
	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// A meterRow is a row of Meter.
type meterRow struct {
	plaint
	model *flowmodel.Meter
}

func (m *meterRow) title() string { return m.model.Name }

// burstOf is a burst, or that of one second where none is given, as in Open
// vSwitch.
func burstOf(rate, burst uint64) uint64 {
	if burst == 0 {
		return rate
	}
	return burst
}

// meter is the row as the flow table has it.
func (m *meterRow) meter(id uint32) flowtable.Meter {
	rate := uint64(m.model.Rate)
	return flowtable.Meter{ID: flowtable.MeterID(id), Packets: m.model.Unit == flowmodel.MeterUnitPktps, Rate: rate, Burst: burstOf(rate, uint64(m.model.Burst))}
}

// SetMeter takes a row of Meter that is new or has changed. Rules that name it
// stay as they are.
func (b *Book) SetMeter(row *flowmodel.Meter, fresh bool) {
	m := b.meters.rows[row.UUID]
	if m == nil || m.model.Name != row.Name {
		b.DropMeter(row.UUID)
		m = &meterRow{plaint: plaint{table: flowmodel.MeterTable, uuid: row.UUID}, model: row}
		fresh = true
		b.meters.put(row.UUID, m)
		b.touch(refMeter, row.Name)
	}
	m.model = row
	if fresh {
		m.told = textOf(row.Error)
	}
	if o := b.objects[meterKey(row.Name)]; o != nil && b.meters.byName[row.Name] == m {
		if now := m.meter(o.id); now != o.meter {
			o.meter = now
			b.changed[o] = struct{}{}
		}
	}
	b.complain(&m.plaint)
}

// DropMeter forgets a row.
func (b *Book) DropMeter(uuid string) {
	if m := b.meters.drop(uuid); m != nil {
		delete(b.errors, &m.plaint)
		b.touch(refMeter, m.model.Name)
	}
}
