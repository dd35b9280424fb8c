package selftest

import (
	"net/netip"
	"testing"

	"portolan/correlate"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

func config() correlate.Config {
	return Room(correlate.DefaultConfig())
}

func replay(t *testing.T, cfg correlate.Config, wrap func(Correlator) Correlator) map[string]Outcome {
	t.Helper()
	real, err := correlate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := Correlator(real)
	if wrap != nil {
		c = wrap(c)
	}
	all, err := Replay(&cfg, c)
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]Outcome{}
	for _, o := range all {
		by[o.ID] = o
	}
	return by
}

// TestEverythingFires: every hypothesis of the catalogue and the operator's own are found.
func TestEverythingFires(t *testing.T) {
	cfg := config()
	cfg.Hypotheses = []hypothesis.Custom{
		{ID: "acme", Kind: hypothesis.ToPort, Expr: "a*b + c + 7"},
		{ID: "far", Kind: hypothesis.ToAddress, Expr: "rol(x, 5) ^ 0x1234567"},
	}
	by := replay(t, cfg, nil)
	if want := len(hypothesis.Catalogue()) + 2; len(by) != want {
		t.Errorf("%d outcomes for %d hypotheses", len(by), want)
	}
	for _, o := range by {
		if !o.Fired {
			t.Errorf("%s (%s) did not fire: %s", o.ID, o.Name, o.Why)
		}
	}
}

// broken is a correlator in which one hypothesis is broken.
type broken struct {
	Correlator
	id string
}

func (w broken) drop(hits []correlate.Hit) []correlate.Hit {
	kept := hits[:0]
	for _, h := range hits {
		if h.Calc.Hypothesis != w.id {
			kept = append(kept, h)
		}
	}
	return kept
}

func (w broken) ObserveLookup(dst []correlate.Hit, l *event.Lookup) []correlate.Hit {
	return w.drop(w.Correlator.ObserveLookup(dst, l))
}

func (w broken) ObserveConnection(dst []correlate.Hit, x *event.Connection) []correlate.Hit {
	return w.drop(w.Correlator.ObserveConnection(dst, x))
}

func (w broken) Flush(dst []correlate.Hit) []correlate.Hit { return w.drop(w.Correlator.Flush(dst)) }

// TestBrokenIsNamed: what does not fire is named, and nothing else is.
func TestBrokenIsNamed(t *testing.T) {
	by := replay(t, config(), func(c Correlator) Correlator { return broken{c, "A1"} })
	for _, o := range by {
		if o.Fired == (o.ID == "A1") {
			t.Errorf("%s fired %v: %s", o.ID, o.Fired, o.Why)
		}
	}
}

// TestConfigurationBlinds: settings that keep a calculation from being looked for are found out.
func TestConfigurationBlinds(t *testing.T) {
	cfg := config()
	cfg.ResolverWhitelist = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	for _, o := range replay(t, cfg, nil) {
		if o.Fired {
			t.Errorf("%s fired although every resolver is on the whitelist", o.ID)
		}
	}
	cfg = config()
	cfg.EphemeralPortRange = [2]uint16{443, 443}
	by := replay(t, cfg, nil)
	if o := by["P1"]; o.Fired || o.Why == "" {
		t.Errorf("P1 on port 443 alone: %+v", o)
	}
	if o := by["A1"]; !o.Fired {
		t.Errorf("A1 has no port to be looked at: %+v", o)
	}
}
