package bus

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/natstest"
	"portolan/cmd/internal/spool"
)

// BenchmarkPublishSpool measures hits to a stream on disk, of a nats-server in a process of its
// own, until all are acknowledged: by a bare asynchronous publisher of nats.go, and through the
// spool, in turns of benchHits so that both see the same machine. In "hit" each is encoded
// once, in either way; in "ready" it is encoded before.
func BenchmarkPublishSpool(b *testing.B) {
	for _, ready := range []bool{false, true} {
		b.Run(map[bool]string{false: "hit", true: "ready"}[ready], func(b *testing.B) { benchmarkPublish(b, ready) })
	}
}

func benchmarkPublish(b *testing.B, ready bool) {
	const benchHits = 20000
	url := natstest.Start(b, "hub", "").URL
	c := DefaultConfig()
	c.Name, c.URL, c.StateDir, c.Limit = "dmz-1", url, b.TempDir(), Limit{}
	bus, err := Open(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close()
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		b.Fatal(err)
	}
	id := uint64(0)
	one, err := NewMessage(numberedHit(0), Context{Sensor: "dmz-1"}).Envelope()
	if err != nil {
		b.Fatal(err)
	}
	// envelope returns the next hit on its way, with a new id.
	envelope := func() Envelope {
		if id++; ready {
			e := one
			e.ID = MessageID(numberedID(id).String(), 1)
			return e
		}
		e, err := NewMessage(numberedHit(id), Context{Sensor: "dmz-1"}).Envelope()
		if err != nil {
			b.Fatal(err)
		}
		return e
	}
	spooled := func() error {
		if !ready {
			id++
			return bus.PublishWait(b.Context(), NewMessage(numberedHit(id), Context{Sensor: "dmz-1"}))
		}
		e := envelope()
		m := e.spooled()
		for {
			err := bus.pub.spool.PutRoom(func(uint64) (*spool.Message, error) { return m, nil })
			if !errors.Is(err, ErrQueueFull) {
				return err
			}
			<-bus.pub.spool.Room()
		}
	}
	var bare, through time.Duration
	rounds := 0
	b.ReportAllocs()
	for b.Loop() {
		rounds++
		began := time.Now()
		for range benchHits {
			e := envelope()
			m := &nats.Msg{Subject: e.Subject, Header: maps.Clone(e.Header), Data: e.Data}
			m.Header.Set(jetstream.MsgIDHeader, e.ID)
			if _, err := js.PublishMsgAsync(m); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
		bare += time.Since(began)

		began = time.Now()
		for range benchHits {
			if err := spooled(); err != nil {
				b.Fatal(err)
			}
		}
		if err := bus.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		through += time.Since(began)
	}
	n := float64(rounds * benchHits)
	b.ReportMetric(n/bare.Seconds(), "bare-hits/s")
	b.ReportMetric(n/through.Seconds(), "spool-hits/s")
	b.ReportMetric(bare.Seconds()/through.Seconds(), "ratio")
	if s := bus.PublishStats(); s.Lost != 0 || s.Stored != uint64(n) {
		b.Errorf("stats %+v, want %.0f stored", s, n)
	}
}

// BenchmarkHandOver measures what a hit costs the caller of Publish.
func BenchmarkHandOver(b *testing.B) {
	c := DefaultConfig()
	c.StateDir, c.Limit = b.TempDir(), Limit{}
	bus, err := Open(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close()
	m := NewMessage(halfSwap(), Context{Sensor: "dmz-1"})
	id := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		id++
		m.Event.ID = MessageID(m.Portolan.HitID, uint32(id))
		_ = bus.Publish(m) // one that finds no room is handed over as well
	}
}
