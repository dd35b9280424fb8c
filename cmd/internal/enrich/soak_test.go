package enrich

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/natstest"
	"portolan/correlate/attribute"
)

// TestSoak: one enricher joins 100,000 records a second that a nats-server of another process stores
// meanwhile or has stored, and names the process of every hit among them.
func TestSoak(t *testing.T) {
	if os.Getenv("PORTOLAN_SOAK") == "" {
		t.Skip("takes a minute and both CPUs; PORTOLAN_SOAK=1 runs it")
	}
	const records, hosts, every = 600_000, 1000, 10_000 // a hit for one record in so many
	url := natstest.Start(t, "hub", "").URL
	w := &world{t, open(t, "dmz-1", url), time.Now().Add(-30 * time.Second)}
	seen := follow(t, open(t, "watch", url))
	for n := range hosts {
		w.publish(w.says(n))
	}
	w.flush()

	// The stream is filled first, by a bare publisher: what is measured is the enricher and the server that feeds it.
	js, err := w.b.NewJetStream(jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	wanted := 0
	for i := range records {
		n := i % hosts
		r := w.connects(n, netip.AddrPortFrom(hostAddr(n), uint16(1024+i%30000)), uint32(i+2))
		if i%every == 0 {
			n = i / every
			r = w.connects(n, netip.AddrPortFrom(hostAddr(n), 40000), uint32(i+2))
			wanted++
		} else {
			r.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 443)
		}
		r.ID = fmt.Sprint("c", i)
		data, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishAsync(bus.EndpointSubject(attribute.Connect, r.HostID), data, jetstream.WithStallWait(patience)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	t.Logf("%d records stored in %v: %.0f a second", records, time.Since(begin), records/time.Since(begin).Seconds())

	for n := range wanted {
		w.publishHit(w.hit(n))
	}
	w.flush()
	e, _ := start(t, "enrich-1", url)
	for begin = time.Now(); e.Counts().Records == 0 && time.Since(begin) < patience; {
		time.Sleep(time.Millisecond) // it reads what hosts and hits say first
	}
	for begin = time.Now(); e.Counts().Records < records+hosts; {
		if time.Since(begin) > patience {
			t.Fatalf("after %v: %+v", patience, e.Counts())
		}
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(begin)
	rate := float64(records) / took.Seconds()
	t.Logf("joined in %v: %.0f records a second, with the server on the same machine", took, rate)
	if rate < 100_000 {
		t.Errorf("%.0f records a second, want 100,000", rate)
	}
	matched := map[string]bool{}
	for len(matched) < wanted {
		m := seen.await(fmt.Sprintf("that is matched, after %d", len(matched)), func(m *bus.Message) bool {
			return m.Portolan.Attribution.Status == string(attribute.Matched)
		})
		matched[m.Portolan.HitID] = true
	}
	t.Logf("%+v", e.Counts())
}
