package correlate_test

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"portolan/correlate"
	"portolan/correlate/baseline"
	"portolan/correlate/evidence"
	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

// feed is a Sink that keeps packet time going and the final hits.
type feed struct {
	c           *correlate.Correlator
	hits        []correlate.Hit
	final       []correlate.Hit
	last        event.Time
	connections uint64
}

func (f *feed) take() {
	for _, h := range f.hits {
		if h.State == correlate.Final && h.Level != correlate.Lead {
			f.final = append(f.final, h)
		}
	}
	f.hits = f.hits[:0]
}

func (f *feed) at(t event.Time) {
	if t-f.last > event.Time(time.Second) {
		f.last = t
		f.hits = f.c.Advance(f.hits, t)
		f.take()
	}
}

func (f *feed) Lookup(l *event.Lookup) {
	f.at(l.Time)
	f.hits = f.c.ObserveLookup(f.hits, l)
	f.take()
}

func (f *feed) Connection(x *event.Connection) {
	f.at(x.Time)
	f.connections++
	f.hits = f.c.ObserveConnection(f.hits, x)
	f.take()
}

// calibrated checks that answers as they are reached no threshold much more often, nor much more
// seldom, than scrambled ones did: a factor of three, as far as the counts can tell.
func calibrated(t *testing.T, st *correlate.Stats) {
	t.Helper()
	const factor, confidence = 3, .999
	threshold := 1
	for i := range correlate.Powers {
		threshold *= 10
		n, m := st.Reached[i], st.ReachedByDecoys[i]
		low, high := evidence.RatioInterval(n, m, confidence)
		if n+m > 0 {
			t.Logf("e-value %d: reached %d times, by decoys %d times; ratio %.2f to %.2f", threshold, n, m, low, high)
		}
		if low > factor || high < 1.0/factor {
			t.Errorf("e-value %d: reached %d times, by decoys %d times; want a ratio from 1/%v to %[4]v", threshold, n, m, factor)
		}
	}
}

// No alert on generated benign traffic of all models, and e-values as the decoys predict: ten
// million connections with PORTOLAN_SOAK=1, a few hundred thousand without.
func TestNoAlertOnBenignTraffic(t *testing.T) {
	cfg := traffic.DefaultConfig()
	cfg.Seed, cfg.Implants, cfg.Connections, cfg.Duration = 7, 0, 400_000, 24*time.Hour
	if testing.Short() {
		cfg.Connections = 100_000
	}
	if os.Getenv("PORTOLAN_SOAK") == "1" {
		cfg.Connections, cfg.Duration = 10_000_000, 30*24*time.Hour
	}
	g, err := traffic.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m, err := baseline.NewModel(baseline.DefaultModelConfig())
	if err != nil {
		t.Fatal(err)
	}
	settings := correlate.DefaultConfig()
	settings.Baseline = m
	c, err := correlate.New(settings)
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{c: c}
	if err := g.Feed(context.Background(), f); err != nil {
		t.Fatal(err)
	}
	f.hits = c.Flush(f.hits)
	f.take()
	st := c.Stats()
	watches := 0
	for _, h := range f.final {
		if h.Level == correlate.Alert {
			t.Errorf("alert on %s → %s: %s, e-value %.3g", h.Client, h.Connection.Dst, h.Calc.Expression, h.Calc.EValue)
		} else {
			watches++
			t.Logf("watch on %s → %s: %s, e-value %.3g", h.Client, h.Connection.Dst, h.Calc.Expression, h.Calc.EValue)
		}
	}
	trials := st.PortTrials + st.AddressTrials
	t.Logf("%d connections, %d trials: %d watches, decoys %d watches and %d alerts, %d trials gated",
		f.connections, trials, watches, st.Decoys[correlate.Watch], st.Decoys[correlate.Alert], st.Gated)
	calibrated(t, &st)
	if f.connections < cfg.Connections*9/10 {
		t.Errorf("only %d connections were generated", f.connections)
	}
}

// The bound of package evidence — a share of at most 1/E of a client's trials reaches E — when the model is
// wrong in what it says of ports: a few of them make up most of the trials, and which changes as time goes on.
func TestBoundHoldsForHeavyTailedDriftingPorts(t *testing.T) {
	const clients, trials = 40, 4000
	r := rand.New(rand.NewPCG(21, 22))
	cfg := correlate.DefaultConfig()
	cfg.Watch = 100 // lower than the default, so that there is something to count
	c, err := correlate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{c: c}
	tail := rand.NewZipf(r, 1.3, 1, 60000)
	at := event.Time(0)
	for i := range trials {
		drift := uint64(i / 400 * 7919)
		for n := range uint32(clients) {
			at = at.Add(10 * time.Millisecond)
			client := netip.AddrPortFrom(addrOf(0x0A000000+n), 40000)
			answer := addrOf(r.Uint32()%(0xDF000000-0x01000000) + 0x01000000)
			port := uint16(1024 + (tail.Uint64()*2654435761+drift)%64000)
			f.Lookup(&event.Lookup{
				Time: at, Client: client, Resolver: netip.MustParseAddrPort("10.1.0.53:53"), Proto: event.UDP, Type: event.A,
				Records: []event.Record{{Type: event.A, TTL: 60, Addr: answer}},
			})
			f.Connection(&event.Connection{Time: at + 1, Src: client, Dst: netip.AddrPortFrom(answer, port), Proto: event.TCP})
		}
	}
	f.hits = c.Flush(f.hits)
	f.take()
	st := c.Stats()
	calibrated(t, &st)
	threshold := 1.0
	for _, n := range st.Reached {
		threshold *= 10
		bound := float64(st.PortTrials) / threshold
		t.Logf("%d trials: %d reached %g, the bound is %.4g", st.PortTrials, n, threshold, bound)
		if float64(n) > bound+6*math.Sqrt(bound)+6 { // six deviations of a count
			t.Errorf("%d of %d trials reached %g, the bound is %.4g", n, st.PortTrials, threshold, bound)
		}
	}
	if st.Reached[1] != uint64(len(f.final)) {
		t.Errorf("%d trials reached %v, %d hits were given out", st.Reached[1], cfg.Watch, len(f.final))
	}
	if st.PortTrials < clients*trials/2 {
		t.Errorf("only %d trials", st.PortTrials)
	}
}

func addrOf(x uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, x)))
}
