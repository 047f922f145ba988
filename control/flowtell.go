package control

import (
	"context"
	"errors"
	"strconv"

	"go.uber.org/zap"

	"millrace/control/flows"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/jsonval"
)

// flowTell writes into rows what has come of them: as many as go into one
// transaction. If that is not all, it asks for another pass, so that new rows need
// not wait for the rest. cur_cfg comes with the last.
func (l *loop) flowTell(ctx context.Context) {
	f := l.flow
	if !f.owner {
		return
	}
	news := f.book.News(opsMax)
	last := len(news) < opsMax
	b, n := flowOps(news)
	count := last && f.book.global != "" && f.book.cur != f.book.next
	if count {
		b, n = appendUpdate(b, n, flowmodel.GlobalTable, f.book.global), n+1
		b = append(strconv.AppendInt(append(b, `"cur_cfg":`...), int64(f.book.next), 10), "}}"...)
	}
	if n == 0 {
		return
	}
	b = append(append(append(b, `,{"op":"assert","lock":"`...), flowsLock...), `"}`...)
	one, cancel := parting(ctx)
	defer cancel()
	if err := f.db.TransactText(one, b, n+1); err != nil {
		l.flowUntold(ctx, err)
		return
	}
	l.status.Flows.Transactions++
	f.book.Told(news)
	if count {
		f.book.cur = f.book.next
	}
	if !last {
		f.again.Reset(0)
	}
	l.soon()
}

// flowUntold sees to it that what was not written is written later. After a lost
// connection all rows come again, and with them a pass.
func (l *loop) flowUntold(ctx context.Context, err error) {
	if errors.Is(err, ovsdb.ErrLost) || errors.Is(err, ovsdb.ErrNotConnected) || ctx.Err() != nil {
		return
	}
	l.log.Error("results of flows not written to the database: tried again", zap.Error(err))
	l.flow.again.Reset(againMin)
}

// flowOps are the operations that tell rows what is new, and how many.
func flowOps(news []flows.News) (b []byte, n int) {
	for i := range news {
		x := &news[i]
		b = appendUpdate(b, n, x.Table, x.UUID)
		n++
		if x.NewStatus {
			b = append(append(append(b, `"status":"`...), x.Status...), `",`...)
		}
		if x.NewError {
			b = append(appendOptional(append(b, `"error":`...), x.Error), ',')
		}
		if x.NewCounters {
			b = strconv.AppendUint(append(b, `"n_packets":`...), x.Packets&counterMax, 10)
			b = append(strconv.AppendUint(append(b, `,"n_bytes":`...), x.Bytes&counterMax, 10), ',')
		}
		b = append(b[:len(b)-1], "}}"...)
	}
	return b, n
}

// counterMax is the largest integer of OVSDB.
const counterMax = 1<<63 - 1

// appendUpdate begins an operation on a row, behind n others.
func appendUpdate(b []byte, n int, table, uuid string) []byte {
	if n > 0 {
		b = append(b, ',')
	}
	b = append(append(append(b, `{"op":"update","table":"`...), table...), `","where":[["_uuid","==",["uuid","`...)
	return append(append(b, uuid...), `"]]],"row":{`...)
}

// appendOptional adds a string, or an empty set in place of an empty one.
func appendOptional(b []byte, s string) []byte {
	if s == "" {
		return append(b, `["set",[]]`...)
	}
	return jsonval.AppendString(b, s)
}
