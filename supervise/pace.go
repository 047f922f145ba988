package supervise

import "time"

// How a process that dies is started again.
const (
	delayFirst  = 100 * time.Millisecond // where the one before it died young
	delayMax    = 5 * time.Second
	settledMin  = time.Second
	settledMax  = 10 * time.Second
	settledRate = 20 // lives that are so many times the delay before them are no loop
)

// A pace is how long starts of a process have to wait. The first one after a
// settled life does not wait, so that a single death is healed at once; who
// dies again and again waits longer each time. A loop of deaths costs at most
// one part in settledRate of a delay's time, whatever its period.
type pace struct {
	delay time.Duration // before the life that is now
}

// died returns how long the next start waits after a life of that length.
func (p *pace) died(lived time.Duration) time.Duration {
	settled := min(max(settledRate*p.delay, settledMin), settledMax)
	if lived >= settled {
		p.delay = 0
		return 0
	}
	p.delay = min(max(2*p.delay, delayFirst), delayMax)
	return p.delay
}
