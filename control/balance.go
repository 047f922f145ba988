package control

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"

	"millrace/control/bridge"
	"millrace/dataplane/api"
)

// balanceSpan is whose loads count: those of as long as the dataplane knows. Less is
// not enough, so that queues do not move to and fro.
const balanceSpan = time.Minute

// A balancer has the dataplane deal receive queues by load, at intervals.
type balancer struct {
	set   bridge.Balance
	next  *time.Timer   // stopped unless set.On
	every time.Duration // instead of set.Interval; 0: not
}

func newBalancer(every time.Duration) balancer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return balancer{next: t, every: every}
}

// follow does what the rows say now.
func (b *balancer) follow(want bridge.Balance) {
	if b.set == want {
		return
	}
	b.set = want
	b.next.Stop()
	if want.On {
		b.next.Reset(b.interval())
	}
}

func (b *balancer) interval() time.Duration { return cmp.Or(b.every, b.set.Interval) }

// rebalance has queues dealt anew if that is worth it. Without a dataplane or with one
// that does not know how, nothing happens.
func (l *loop) rebalance(ctx context.Context) {
	set := l.balance.set
	defer func() { l.balance.next.Reset(l.balance.interval()) }() // a whole span since queues were dealt, if they were
	if l.session == nil {
		return
	}
	one, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := l.session.client.Rebalance(one, &api.RebalanceRequest{
		SpanSeconds: balanceSpan.Seconds(), WholeSpan: true,
		LoadLeast: float64(set.Load) / 100, ImproveLeast: float64(set.Improve) / 100,
	})
	switch {
	case err != nil:
		l.log.Warn("receive queues stay where they are", zap.Error(err))
	case r.GetDone():
		l.log.Info("receive queues dealt anew by load", zap.Uint32("moved", r.GetMoves()), zap.Float64("improvement", r.GetImprovement()))
	default:
		l.log.Debug("receive queues stay where they are", zap.String("because", r.GetReason()))
	}
}
