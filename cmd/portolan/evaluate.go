package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/selftest"
	"portolan/correlate"
	"portolan/correlate/hypothesis"
	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

func evaluateCommand() *command {
	return &command{
		name:  "evaluate",
		brief: "measures what is found, and what is found wrongly, on generated traffic",
		usage: []string{
			"portolan evaluate [--clients N] [--days D] [--families LIST] [--json] [--svg FILE]",
			"portolan evaluate [--json] FILE...",
		},
		about: `Makes labelled traffic of hosts that do what hosts do, with implants of every family among
them, and runs it through the correlator. Prints for each family at which contact it was
found, and what was found that is no calculation, by threshold and by who did it. Beside
it stand two rules as they are used without lookups and without a baseline: the port is
a·b+c, or a·(b+c), of the destination. Thresholds are powers of ten from --watch to 1e9.
The same flags give the same traffic; no packet is sent.

With capture files it measures those instead, each by itself, as innocent traffic: what was found
in them, what scrambled answers reached, and what the two rules say.`,
		example: []string{
			"portolan evaluate --days 0.2 --svg evaluate.svg", "portolan evaluate --families P1,A9 --clients 50 --json",
			"portolan evaluate testdata/pcap/benign.pcap",
		},
		declare: func(o *options) action {
			world := traffic.DefaultConfig()
			asJSON, svg, connections := false, "", 0
			o.whole(&world.Clients, "clients", "N", "hosts without an implant", 0, 1e6)
			o.whole(&world.Implants, "implants", "N", "infected hosts of each family", 0, 1000)
			o.value("days", func(text string) error {
				days, err := strconv.ParseFloat(text, 64)
				if err != nil || !(days > 0 && days <= 366) {
					return fmt.Errorf("%q is not a number of days, more than 0 and at most 366", text)
				}
				world.Duration = time.Duration(days * float64(24*time.Hour))
				return nil
			})
			o.describe("days", "D", "days that the world lasts", "1")
			o.whole(&connections, "connections", "N", "end after so many connections; 0 is no limit", 0, math.MaxInt)
			o.value("seed", func(text string) (err error) {
				if world.Seed, err = strconv.ParseUint(text, 10, 64); err != nil {
					return fmt.Errorf("%q is not a number from 0 up", text)
				}
				return nil
			})
			o.describe("seed", "N", "another seed is another world", "1")
			o.value("families", func(text string) error {
				world.Families = strings.Split(text, ",")
				return world.Validate()
			})
			o.describe("families", "LIST", "families by id or group, with commas between, such as A1,A3,V6:xor", "all")
			o.bool(&asJSON, "json", "print one JSON object")
			o.string(&svg, "svg", "FILE", "write a plot: detection and false hits by threshold")
			o.settings("alert", "watch", "address_window", "port_window", "max_ttl", "volume_threshold", "ephemeral_port_range", "resolver_whitelist", "hypotheses", "memory")
			return func(ctx context.Context, p *program, args []string) error {
				world.Connections = uint64(connections)
				if err := world.Validate(); err != nil {
					return usagef("evaluate: %v", err)
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				if cfg.Correlate.Watch > 1e8 {
					return usagef("evaluate: --watch: %g leaves fewer than two thresholds up to 1e9", cfg.Correlate.Watch)
				}
				if len(args) > 0 {
					if svg != "" {
						return usagef("evaluate: --svg: there is a plot of generated traffic only")
					}
					return p.evaluateCaptures(ctx, &cfg, args, asJSON)
				}
				return p.evaluate(ctx, &cfg, world, asJSON, svg)
			}
		},
	}
}

// whole adds a flag for a whole number from least to most.
func (o *options) whole(to *int, name, arg, help string, least, most int) {
	o.value(name, func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not a number from %d to %d", text, least, most)
		}
		*to = n
		return nil
	})
	o.describe(name, arg, help, strconv.Itoa(*to))
}

func (p *program) evaluate(ctx context.Context, cfg *config.Config, world traffic.Config, asJSON bool, svg string) error {
	var plot *os.File
	if svg != "" { // before the work, so that a wrong path costs no time
		var err error
		if plot, err = os.Create(svg); err != nil {
			return fmt.Errorf("write plot: %w", err)
		}
		defer plot.Close()
	}
	e, err := newEvaluation(cfg, world)
	if err != nil {
		return err
	}
	if err := e.run(ctx); err != nil {
		return err
	}
	r := e.report()
	if plot != nil {
		if err := errors.Join(r.writeSVG(plot), plot.Close()); err != nil {
			return fmt.Errorf("write plot: %w", err)
		}
	}
	if asJSON {
		return r.writeJSON(p.stdout)
	}
	return r.write(p.stdout)
}

// thresholds is how many e-values hits are counted at: the powers of ten from 10 up. Below the
// Watch level there are no hits.
const thresholds = correlate.Powers

// reached returns how many of the thresholds e reaches.
func reached(e float64) int {
	n := 0
	for t := 10.0; n < thresholds && e >= t; t *= 10 {
		n++
	}
	return n
}

// evaluation runs a world through a correlator and counts hits by what made them.
type evaluation struct {
	cfg         correlate.Config
	world       traffic.Config
	generator   *traffic.Generator
	correlator  *correlate.Correlator
	hits        []correlate.Hit
	begin, next event.Time
	last        event.Time

	labels   []labelled      // of the newest connections, by frame number
	listed   map[string]bool // ids of the catalogue
	families map[string]*traffic.Family
	implants map[implantKey]*implantResult
	sources  map[falseKey]*falseCount
	naive    naiveRules

	lookups, connections, queries uint64
	unlabelled                    uint64 // hits whose connection was too long ago
}

// labelled is what the generator said of a connection.
type labelled struct {
	frame uint64
	host  int
	label traffic.Label
}

// labelMemory is for how many frames labels are kept: longer than any event is held.
const labelMemory = 1 << 18

type implantKey struct {
	family string
	host   int
}

// implantResult is what was found of one implant. Contacts count from 1; 0 is none.
type implantResult struct {
	family   *traffic.Family
	around   string
	contacts int
	first    [thresholds]int // contact by which the threshold was reached
	watch    int
	alert    int
	lead     int
	named    bool // the first alert names the family
	as       string
	naive    int
	trials   []trialReport // the first that gave hits
}

type falseKey struct {
	source, hypothesis string
	infected           bool // on an address that has an implant
}

type falseCount struct {
	clients map[netip.Addr]bool
	above   [thresholds]uint64 // hits at or above the threshold
	watch   uint64
	alert   uint64
	leads   uint64
	largest float64
	example string
}

func newEvaluation(cfg *config.Config, world traffic.Config) (e *evaluation, err error) {
	e = &evaluation{
		cfg: cfg.Correlate, world: world, listed: map[string]bool{}, labels: make([]labelled, labelMemory),
		families: map[string]*traffic.Family{}, implants: map[implantKey]*implantResult{}, sources: map[falseKey]*falseCount{},
		begin: world.Start, next: world.Start, last: world.Start,
	}
	for _, h := range hypothesis.Catalogue() {
		e.listed[h.ID] = true
	}
	all := traffic.Families()
	for i := range all {
		e.families[all[i].ID] = &all[i]
	}
	if e.generator, err = traffic.New(world); err != nil {
		return nil, err
	}
	seeded := *cfg // the decoys, too, are those of the world's seed
	seeded.Correlate.Seed = world.Seed | 1<<63
	e.correlator, _, err = newCorrelator(&seeded)
	return e, err
}

func (e *evaluation) run(ctx context.Context) error {
	if err := e.generator.Run(ctx, e.take); err != nil {
		return err
	}
	e.hits = e.correlator.Flush(e.hits[:0])
	e.count()
	return nil
}

// take hands one event to the correlator.
func (e *evaluation) take(ev traffic.Event) {
	if ev.Lookup != nil {
		e.lookups++
		e.tick(ev.Lookup.Time)
		e.hits = e.correlator.ObserveLookup(e.hits[:0], ev.Lookup)
		e.count()
		return
	}
	x := ev.Connection
	e.tick(x.Time)
	l := labelled{x.Frame, ev.Host, ev.Label}
	e.labels[x.Frame%labelMemory] = l
	if ev.Label.Query {
		e.queries++
	} else {
		e.connections++
		if ev.Label.Implant {
			i := e.implant(&l, x.Src.Addr())
			i.contacts = max(i.contacts, ev.Label.Contact)
		}
		if naive(x) {
			e.naive.count(e, &l, x)
		}
	}
	e.hits = e.correlator.ObserveConnection(e.hits[:0], x)
	e.count()
}

// tick advances the correlator each second of packet time.
func (e *evaluation) tick(t event.Time) {
	if e.last = t; t < e.next {
		return
	}
	e.next = t + 1e9
	e.hits = e.correlator.Advance(e.hits[:0], t)
	e.count()
}

func (e *evaluation) implant(l *labelled, client netip.Addr) *implantResult {
	k := implantKey{l.label.Source, l.host}
	i := e.implants[k]
	if i == nil {
		i = &implantResult{family: e.families[k.family], around: e.generator.Infected(client)}
		if client.Is6() {
			i.around = "ipv6"
		}
		e.implants[k] = i
	}
	return i
}

// count enters the final hits.
func (e *evaluation) count() {
	for n := range e.hits {
		h := &e.hits[n]
		if h.State != correlate.Final || h.Level == correlate.None {
			continue
		}
		l := &e.labels[h.Connection.Frame%labelMemory]
		switch {
		case l.frame != h.Connection.Frame:
			e.unlabelled++
		case l.label.Implant:
			e.implant(l, h.Client).count(e, h, l)
		default:
			k := falseKey{l.label.Source, e.calculation(h.Calc.Hypothesis), e.generator.Infected(h.Client) != ""}
			if e.sources[k] == nil {
				e.sources[k] = &falseCount{clients: map[netip.Addr]bool{}}
			}
			e.sources[k].count(h)
		}
	}
}

func firstContact(at *int, contact int) {
	if *at == 0 || contact < *at {
		*at = contact
	}
}

func (i *implantResult) count(e *evaluation, h *correlate.Hit, l *labelled) {
	contact := l.label.Contact
	if h.Level == correlate.Lead {
		firstContact(&i.lead, contact)
		return
	}
	for t := range reached(h.Calc.EValue) {
		firstContact(&i.first[t], contact)
	}
	if c := &h.Calc; i.alert == 0 && len(i.trials) < maxTrialReports {
		i.trials = append(i.trials, trialReport{
			contact, c.EValue, c.Hypothesis, c.Answers, c.Constants, h.Baseline.Chance, c.SupportTrials, h.Baseline.Trials,
		})
	}
	switch h.Level {
	case correlate.Alert:
		if i.alert == 0 {
			i.as = h.Calc.Hypothesis
			i.named = listedAs(e.calculation(i.as), i.family)
		}
		firstContact(&i.alert, contact)
		firstContact(&i.watch, contact)
	case correlate.Watch:
		firstContact(&i.watch, contact)
	}
}

// maxTrialReports is how many hits of an implant are told one by one.
const maxTrialReports = 12

// trialReport is what one contact was worth, with what that came from. The first match of a hypothesis is
// worth its weight × the mean share of trials ÷ (answers × constants × chance); package evidence.
type trialReport struct {
	Contact   int     `json:"contact"`
	EValue    float64 `json:"e_value"`
	As        string  `json:"as"`
	Answers   int     `json:"answers"`   // competed
	Constants int     `json:"constants"` // remembered; 0 when none is learned
	Chance    float64 `json:"chance"`    // of the port or destination
	Support   int     `json:"support"`   // trials that the hypothesis predicted, this one included
	Trials    uint64  `json:"trials"`    // of its kind that the client made before
}

// calculation returns what the catalogue lists a hit's hypothesis as.
func (e *evaluation) calculation(id string) string { return selftest.Listed(id, e.listed) }

// listedAs reports whether a hypothesis, as the catalogue lists it, is the family's.
func listedAs(listed string, f *traffic.Family) bool {
	return listed == f.Catalogue || f.Learned && strings.HasPrefix(listed, f.Catalogue+":")
}

func (f *falseCount) count(h *correlate.Hit) {
	f.clients[h.Client] = true
	if h.Level == correlate.Lead {
		f.leads++
		return
	}
	for t := range reached(h.Calc.EValue) {
		f.above[t]++
	}
	switch h.Level {
	case correlate.Alert:
		f.alert++
		f.watch++
	case correlate.Watch:
		f.watch++
	}
	if h.Calc.EValue > f.largest {
		f.largest = h.Calc.EValue
		f.example = fmt.Sprintf("%s → %s/%s, %s", h.Client, h.Connection.Dst, h.Connection.Proto, h.Calc.Expression)
	}
}

// naiveRules counts what rules without lookups and baseline would call calculated.
type naiveRules struct {
	hits     uint64 // benign connections
	distinct map[netip.AddrPort]bool
	bySource map[string]uint64
}

// naive reports whether the port is a·b+c or a·(b+c) of the destination.
func naive(x *event.Connection) bool {
	if !x.Dst.Addr().Is4() {
		return false
	}
	o := x.Dst.Addr().As4()
	a, b, c := uint32(o[0]), uint32(o[1]), uint32(o[2])
	port := uint32(x.Dst.Port())
	return (a*b+c)&0xffff == port || a*(b+c)&0xffff == port
}

func (n *naiveRules) count(e *evaluation, l *labelled, x *event.Connection) {
	if l.label.Implant {
		firstContact(&e.implant(l, x.Src.Addr()).naive, l.label.Contact)
		return
	}
	if n.distinct == nil {
		n.distinct, n.bySource = map[netip.AddrPort]bool{}, map[string]uint64{}
	}
	n.hits++
	n.distinct[x.Dst] = true
	n.bySource[l.label.Source]++
}

// wanted returns the contact by which a family is to be an alert: known transforms that are heavy at the
// first, others at the second, port formulas and learned constants at the third, learned offsets at the fourth.
func wanted(f *familyReport) int {
	switch {
	case strings.HasPrefix(f.ID, "C*"):
		return 4
	case f.Group == "A1" || f.Group == "A3" || f.Group == "A4" || f.Group == "A6":
		return 1
	case f.Learned || f.Group[0] != 'A' && f.Group != "TXT":
		return 3
	}
	return 2
}

// median returns the middle of a list that is not empty; it sorts it.
func median[T cmp.Ordered](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}
