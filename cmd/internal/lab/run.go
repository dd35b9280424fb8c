package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

var errClosed = errors.New("the lab is closed")

// Run lets all clients do what they do for Config.Duration, and returns when the last has ended its last
// conversation. It is called once: what each lookup is answered goes on where it stood. The
// error is ctx's cause when that ended it, or says what in the lab did not work: then not all
// traffic was made.
func (l *Lab) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !l.begin(cancel) {
		return errClosed
	}
	defer l.running.Done()

	if rate := l.cfg.Background; rate > 0 {
		stop, e := l.net.send(rate)
		if e != nil {
			return fmt.Errorf("send in the background: %w", e)
		}
		defer func() { err = both(err, stop()) }()
	}
	l.say(fmt.Sprintf("traffic for %v: %d benign clients, %d implants", l.cfg.Duration, len(l.plan.benign), len(l.plan.implants)))
	end := time.Now().Add(l.cfg.Duration)
	n := len(l.plan.hosts)
	ended := make(chan struct{}, n)
	for i := range n {
		go func() {
			defer func() { ended <- struct{}{} }()
			if err := l.play(ctx, i, end); err != nil && ctx.Err() == nil {
				h := l.plan.hosts[i]
				cancel(fmt.Errorf("%s at %s: %w", h.Role, h.Addr, err))
			}
		}()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n > 0 {
		select {
		case <-ended:
			n--
		case <-tick.C:
			t := l.Traffic()
			l.say(fmt.Sprintf("%2.0f s left: %d lookups, %d connections, %d of them by implants",
				max(0, time.Until(end).Seconds()), t.Lookups, t.Connections, len(l.Truth())))
		}
	}
	return context.Cause(ctx)
}

// begin notes that Run runs, unless the lab is closed; stop ends it from then on.
func (l *Lab) begin(stop context.CancelCauseFunc) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.running.Add(1)
	l.stops = append(l.stops, stop)
	return true
}

// play is the life of the ith host, on a thread of its own in the clients' namespace.
func (l *Lab) play(ctx context.Context, i int, end time.Time) error {
	c := l.client(i)
	return l.net.clients.do(func() error {
		if n := i - len(l.plan.benign); n >= 0 {
			if l.cfg.Program != nil {
				return l.process(ctx, c, n)
			}
			return l.plan.implants[n].run(ctx, c, time.Until(end))
		}
		does := l.plan.benign[i](c)
		for ctx.Err() == nil && time.Now().Before(end) {
			if err := does(ctx); err != nil {
				return err
			}
			c.pause(ctx, 20*time.Millisecond, 180*time.Millisecond)
		}
		return nil
	})
}

func (l *Lab) client(i int) *client {
	return &client{Host: l.plan.hosts[i], lab: l, rng: rand.New(rand.NewPCG(l.cfg.Seed, uint64(i)))}
}

// wait waits for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (l *Lab) say(line string) {
	l.voice.Lock()
	defer l.voice.Unlock()
	l.cfg.Progress(line)
}

func (l *Lab) count(t Traffic) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tell != nil {
		l.tell(said{Traffic: t})
		return
	}
	l.traffic.Lookups += t.Lookups
	l.traffic.Connections += t.Connections
}

func (l *Lab) report(c Contact) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tell != nil {
		l.tell(said{Contact: &c})
		return
	}
	l.truth = append(l.truth, c)
	l.traffic.Connections++
	l.cfg.Logger.Debug("contact", "family", c.Family, "src", c.Source, "dst", c.Destination, "proto", c.Proto,
		"after", c.Time.Sub(c.Answered), "at", c.Time.UTC())
}
