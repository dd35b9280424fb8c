package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/state"
	"portolan/correlate/baseline"
	"portolan/sensor/event"
)

func baselineCommand() *command {
	return &command{
		name:  "baseline",
		brief: "shows what was learned of each zone, or merges it across sensors",
		usage: []string{"portolan baseline show [--top N] [--json] [FILE]", "portolan baseline merge FILE... --out FILE"},
		about: `show prints what the zones find ordinary: ports, and destinations that no lookup explains, which
three clients or more used. FILE is a state that portolan run keeps, by default this host's. merge
adds up the states of several sensors that see different hosts, each faded to the newest of their
times, into one; put it in place of a sensor's baseline.state while that is stopped.`,
		example: []string{"portolan baseline merge hq.state branch.state --out all.state && portolan baseline show all.state"},
		declare: func(o *options) action {
			out, top, asJSON := "", 10, false
			o.string(&out, "out", "FILE", "merge: the state to write, all or nothing")
			o.whole(&top, "top", "N", "show: of each zone so many ports and destinations", 1, 1<<20)
			o.bool(&asJSON, "json", "show: print one JSON object")
			o.settings("state_dir")
			return func(_ context.Context, p *program, args []string) error {
				verb := ""
				if len(args) > 0 {
					verb, args = args[0], args[1:]
				}
				switch {
				case verb == "show" && len(args) <= 1 && out == "":
					cfg, err := o.load(p)
					if err != nil {
						return err
					}
					return p.baselineShow(&cfg, args, top, asJSON)
				case verb == "show":
					return usagef("baseline show: takes one file, and no --out")
				case verb != "merge":
					return &usageError{text: "baseline: say show or merge", hint: "portolan help baseline"}
				case len(args) == 0 || out == "":
					return usagef("baseline merge: name the states to merge, and --out")
				}
				return p.baselineMerge(args, out)
			}
		},
	}
}

// readBaseline reads a state. One from the future is taken to be of now, and said to be.
func (p *program) readBaseline(path string) (s baseline.State, err error) {
	if err := state.Read(path, &s); err != nil {
		return s, withHint(err, "states are the files baseline.state that portolan run keeps in its state directory")
	}
	if ahead := s.NotAfter(event.TimeOf(time.Now())); ahead > clockSlack {
		fmt.Fprintf(p.stderr, "portolan: %s is from the future, by %s: a clock was wrong; it counts as of now\n", path, ahead.Round(time.Minute))
	}
	return s, nil
}

func (p *program) baselineMerge(paths []string, out string) error {
	m, err := baseline.NewModel(baseline.DefaultModelConfig())
	if err != nil {
		return err
	}
	for _, path := range paths {
		s, err := p.readBaseline(path)
		if err != nil {
			return err
		}
		if err := m.Import(s); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := state.Write(out, m.Export()); err != nil {
		return err
	}
	t := m.Stats()
	fmt.Fprintf(p.stderr, "portolan: %s from %s: %s, %s, %s\n", out, count(len(paths), "state", "states"), count(t.Zones, "zone", "zones"),
		count(t.Ports, "port", "ports"), count(t.Destinations, "destination", "destinations"))
	if t.Lost > 0 {
		return fmt.Errorf("baseline merge: %s did not fit: a baseline holds %d zones", count(t.Lost, "zone or trial", "zones or trials"),
			baseline.DefaultModelConfig().Zones)
	}
	return nil
}

// baselineReport is what baseline show prints; the JSON form is the struct.
type baselineReport struct {
	File  string       `json:"file"`
	Time  time.Time    `json:"time"` // counted up to then
	Zones []zoneReport `json:"zones"`
}

type zoneReport struct {
	Zone         string      `json:"zone"`
	PortTrials   float64     `json:"port_trials"` // faded; each client's once in a generation
	Destinations float64     `json:"destination_trials"`
	Ordinary     []keyReport `json:"ordinary"`
}

type keyReport struct {
	Kind  string  `json:"kind"` // "port" or "destination"
	Key   string  `json:"key"`
	Share float64 `json:"share"` // of the zone's trials of the kind, from 0 to 1
}

func (p *program) baselineShow(cfg *config.Config, args []string, top int, asJSON bool) error {
	path := baselinePath(cfg)
	if len(args) == 1 {
		path = args[0]
	}
	s, err := p.readBaseline(path)
	if err != nil {
		return err
	}
	m, err := baseline.NewModel(baseline.DefaultModelConfig())
	if err != nil {
		return err
	}
	if err := m.Import(s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r := baselineReport{File: path, Time: s.Time().UTC(), Zones: []zoneReport{}}
	zones := map[event.Zone]*zoneReport{}
	for _, kind := range []string{"port", "destination"} {
		book := s.Ports
		if kind == "destination" {
			book = s.Destinations
		}
		for i := range book.Zones {
			z := &book.Zones[i]
			at := event.Zone{Kind: z.Kind, ID: z.ID}
			if zones[at] == nil {
				zones[at] = &zoneReport{Zone: at.String(), Ordinary: []keyReport{}}
			}
			zones[at].add(m, at, s.Time(), kind, z, top)
		}
	}
	for _, z := range zones {
		r.Zones = append(r.Zones, *z)
	}
	slices.SortFunc(r.Zones, func(a, b zoneReport) int { return cmp.Compare(a.Zone, b.Zone) })
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(r)
	}
	_, err = fmt.Fprint(p.stdout, r.text())
	return err
}

// add enters the keys of one kind that the model gives more than its prior.
func (r *zoneReport) add(m *baseline.Model, at event.Zone, counted event.Time, kind string, z *baseline.ZoneState, top int) {
	next := counted.Add(2 * baseline.Epoch)
	var keys []keyReport
	for _, k := range z.Keys {
		if len(k.Clients) < baseline.Ordinarily {
			continue
		}
		key := keyReport{Kind: kind, Key: fmt.Sprint(k.Key)}
		if kind == "port" {
			key.Share, _ = m.PortChance(at, next, uint16(k.Key))
		} else {
			key.Share = m.DestinationChance(at, next, k.Key)
			key.Key = netip.AddrFrom4([4]byte{byte(k.Key >> 24), byte(k.Key >> 16), byte(k.Key >> 8), byte(k.Key)}).String()
		}
		keys = append(keys, key)
	}
	if kind == "port" {
		r.PortTrials = z.Trials
	} else {
		r.Destinations = z.Trials
	}
	slices.SortStableFunc(keys, func(a, b keyReport) int { return cmp.Compare(b.Share, a.Share) })
	r.Ordinary = append(r.Ordinary, keys[:min(top, len(keys))]...)
}

// text writes the report for people.
func (r *baselineReport) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, counted up to %s UTC: %s\n", r.File, r.Time.Format("2006-01-02 15:04"), count(len(r.Zones), "zone", "zones"))
	for _, z := range r.Zones {
		fmt.Fprintf(&b, "\nZone %s: %.0f trials of ports, %.0f of destinations that no lookup explains\n", z.Zone, z.PortTrials, z.Destinations)
		rows := [][]string{{"kind", "ordinary", "chance"}}
		for _, k := range z.Ordinary {
			rows = append(rows, []string{k.Kind, k.Key, fmt.Sprintf("%.2g", k.Share)})
		}
		if len(rows) > 1 {
			writeColumns(&b, rows)
		}
	}
	return b.String()
}
