package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"portolan/correlate"
	"portolan/correlate/evidence"
	"portolan/correlate/traffic"
)

// evaluationReport is what evaluate prints; the JSON form is the struct.
type evaluationReport struct {
	World struct {
		Seed        uint64  `json:"seed"`
		Days        float64 `json:"days"`
		Addresses   int     `json:"addresses"`          // client addresses; behind NAT several hosts share one
		Infected    int     `json:"infected_addresses"` // of those, with an implant
		Lookups     uint64  `json:"lookups"`
		Connections uint64  `json:"connections"` // queries to resolvers left out
		Queries     uint64  `json:"queries"`
		ClientDays  float64 `json:"client_days"`
	} `json:"world"`
	Watch    float64           `json:"watch"` // e-values of the configuration
	Alert    float64           `json:"alert"`
	Families []familyReport    `json:"families"`
	ByLevel  []thresholdReport `json:"thresholds"`
	False    struct {
		// By level, an alert being no watch: on addresses without implant, and per client-day there.
		Clean       levelCounts `json:"clean"`
		CleanPerDay levelRates  `json:"clean_per_client_day"`
		// Benign connections of addresses with an implant.
		Infected       levelCounts `json:"infected"`
		InfectedPerDay levelRates  `json:"infected_per_client_day"`
		// What the hypotheses reached on scrambled answers, over all addresses.
		Decoys       levelCounts `json:"decoys"`
		DecoysPerDay levelRates  `json:"decoys_per_client_day"`
		// Bound is what trials and thresholds allow at most, per client-day.
		Bound levelRates `json:"bound_per_client_day"`
	} `json:"false"`
	Sources []sourceReport `json:"false_by_source"`
	Naive   struct {
		Hits     uint64            `json:"hits"`     // benign connections
		Distinct int               `json:"distinct"` // destinations and ports among them
		PerDay   float64           `json:"per_client_day"`
		BySource map[string]uint64 `json:"by_source"`
	} `json:"naive"`
	Unlabelled uint64 `json:"unlabelled"`
}

type levelCounts struct {
	Leads   uint64 `json:"leads"`
	Watches uint64 `json:"watches"`
	Alerts  uint64 `json:"alerts"`
}

type levelRates struct {
	Leads   float64 `json:"leads"`
	Watches float64 `json:"watches"`
	Alerts  float64 `json:"alerts"`
}

func (c levelCounts) per(days float64) levelRates {
	return levelRates{per(float64(c.Leads), days), per(float64(c.Watches), days), per(float64(c.Alerts), days)}
}

func (c *levelCounts) add(f *falseCount) {
	c.Leads += f.leads
	c.Watches += f.watch - f.alert
	c.Alerts += f.alert
}

// familyReport is what was found of one family. Contacts count from 1; 0 is none.
type familyReport struct {
	ID       string          `json:"id"`
	Group    string          `json:"group"`
	Name     string          `json:"name"`
	Learned  bool            `json:"learned"`
	Implants []implantReport `json:"implants"`
}

type implantReport struct {
	Around   string          `json:"around"`
	Contacts int             `json:"contacts"`
	Watch    int             `json:"watch"` // contact at which the level was reached
	Alert    int             `json:"alert"`
	Lead     int             `json:"lead"`
	Naive    int             `json:"naive"`
	Named    bool            `json:"named"` // the first alert names this family
	As       string          `json:"as,omitempty"`
	First    [thresholds]int `json:"first"`            // by threshold, from 10 up
	Trials   []trialReport   `json:"trials,omitempty"` // up to the first alert
}

type thresholdReport struct {
	EValue         float64 `json:"e_value"`
	FoundFirst     float64 `json:"found_first"` // share of implants found at the first contact
	FoundThird     float64 `json:"found_third"` // by the third
	Found          float64 `json:"found"`       // ever
	False          uint64  `json:"false"`       // hits on addresses without implant
	FalsePerDay    float64 `json:"false_per_client_day"`
	InfectedFalse  uint64  `json:"false_on_infected"` // benign connections of infected addresses
	InfectedPerDay float64 `json:"false_on_infected_per_client_day"`
	Expected       float64 `json:"expected_per_client_day"` // at most: trials ÷ e-value
	Decoys         uint64  `json:"decoys"`                  // trials in which scrambled answers reached it, over all addresses
	// Between what the ratio of false hits to decoys lies, with 95 % confidence; no high end without decoys.
	RatioLow  float64  `json:"ratio_low"`
	RatioHigh *float64 `json:"ratio_high"`
}

type sourceReport struct {
	Source     string  `json:"source"`
	Hypothesis string  `json:"hypothesis"`
	Infected   bool    `json:"infected"`
	Clients    int     `json:"clients"` // addresses that gave them
	Watches    uint64  `json:"watches"` // alerts not among them
	Alerts     uint64  `json:"alerts"`
	Leads      uint64  `json:"leads"`
	Largest    float64 `json:"largest_e_value"`
	Example    string  `json:"example"`
}

func (e *evaluation) report() *evaluationReport {
	r := &evaluationReport{Watch: e.cfg.Watch, Alert: e.cfg.Alert, Unlabelled: e.unlabelled, Families: []familyReport{}, Sources: []sourceReport{}}
	w := &r.World
	w.Seed, w.Days = e.world.Seed, e.last.Sub(e.begin).Hours()/24
	w.Addresses, w.Infected = e.generator.Addresses(), e.generator.InfectedAddresses()
	w.Lookups, w.Connections, w.Queries = e.lookups, e.connections, e.queries
	w.ClientDays = float64(w.Addresses-w.Infected) * w.Days
	infectedDays := float64(w.Infected) * w.Days

	for _, f := range traffic.Families() {
		fr := familyReport{ID: f.ID, Group: f.Group, Name: f.Name, Learned: f.Learned}
		for k, i := range e.implants {
			if k.family == f.ID && i.contacts > 0 {
				fr.Implants = append(fr.Implants, implantReport{i.around, i.contacts, i.watch, i.alert, i.lead, i.naive, i.named, i.as, i.first, i.trials})
			}
		}
		if len(fr.Implants) > 0 {
			slices.SortFunc(fr.Implants, func(a, b implantReport) int {
				return cmp.Or(cmp.Compare(a.Around, b.Around), cmp.Compare(a.Contacts, b.Contacts), slices.Compare(a.First[:], b.First[:]))
			})
			r.Families = append(r.Families, fr)
		}
	}

	stats := e.correlator.Stats()
	trials := float64(stats.PortTrials+stats.AddressTrials) / max(w.ClientDays+infectedDays, math.SmallestNonzeroFloat64)
	for t := range thresholds {
		tr := thresholdReport{EValue: math.Pow10(t + 1)}
		if tr.EValue < e.cfg.Watch {
			continue
		}
		all := 0
		for _, f := range r.Families {
			for _, i := range f.Implants {
				all++
				first := i.First[t]
				tr.FoundFirst += b2f(first == 1)
				tr.FoundThird += b2f(first >= 1 && first <= 3)
				tr.Found += b2f(first >= 1)
			}
		}
		for k, c := range e.sources {
			if k.infected {
				tr.InfectedFalse += c.above[t]
			} else {
				tr.False += c.above[t]
			}
		}
		tr.FoundFirst, tr.FoundThird, tr.Found = per(tr.FoundFirst, float64(all)), per(tr.FoundThird, float64(all)), per(tr.Found, float64(all))
		tr.FalsePerDay, tr.InfectedPerDay = per(float64(tr.False), w.ClientDays), per(float64(tr.InfectedFalse), infectedDays)
		tr.Expected = trials / tr.EValue
		tr.Decoys = stats.ReachedByDecoys[t]
		low, high := evidence.RatioInterval(tr.False+tr.InfectedFalse, tr.Decoys, .95)
		if tr.RatioLow = low; !math.IsInf(high, 0) {
			tr.RatioHigh = &high
		}
		r.ByLevel = append(r.ByLevel, tr)
	}

	for k, c := range e.sources {
		if c.watch+c.leads == 0 {
			continue
		}
		r.Sources = append(r.Sources, sourceReport{k.source, k.hypothesis, k.infected, len(c.clients), c.watch - c.alert, c.alert, c.leads, c.largest, c.example})
		if k.infected {
			r.False.Infected.add(c)
		} else {
			r.False.Clean.add(c)
		}
	}
	slices.SortFunc(r.Sources, func(a, b sourceReport) int {
		return cmp.Or(cmp.Compare(b.Alerts, a.Alerts), cmp.Compare(b.Watches, a.Watches), cmp.Compare(b.Leads, a.Leads),
			cmp.Compare(a.Source, b.Source), cmp.Compare(a.Hypothesis, b.Hypothesis), cmp.Compare(b2f(a.Infected), b2f(b.Infected)))
	})
	f := &r.False
	f.Decoys = levelCounts{stats.Decoys[correlate.Lead], stats.Decoys[correlate.Watch], stats.Decoys[correlate.Alert]}
	f.CleanPerDay, f.InfectedPerDay, f.DecoysPerDay = f.Clean.per(w.ClientDays), f.Infected.per(infectedDays), f.Decoys.per(w.ClientDays+infectedDays)
	f.Bound.Watches, f.Bound.Alerts = trials/r.Watch, trials/r.Alert

	r.Naive.Hits, r.Naive.Distinct, r.Naive.BySource = e.naive.hits, len(e.naive.distinct), e.naive.bySource
	r.Naive.PerDay = per(float64(e.naive.hits), w.ClientDays+infectedDays)
	return r
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// per returns x/n, and 0 when there is nothing to share among.
func per(x, n float64) float64 {
	if n <= 0 {
		return 0
	}
	return x / n
}

func (r *evaluationReport) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// write prints the report for people.
func (r *evaluationReport) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "World: seed %d, %s, %s, %d of them infected; %d lookups, %d connections, %d queries\n\n",
		r.World.Seed, (time.Duration(r.World.Days * float64(24*time.Hour))).Round(time.Minute),
		count(r.World.Addresses, "client address", "client addresses"), r.World.Infected, r.World.Lookups, r.World.Connections, r.World.Queries)
	r.writeFamilies(&b)
	r.writeLate(&b)
	r.writeFalse(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeFamilies prints a line for each family, and one for a group of many.
func (r *evaluationReport) writeFamilies(b *strings.Builder) {
	if len(r.Families) == 0 {
		return
	}
	b.WriteString("Found, and at which contact (median, slowest). Named: the first alert gives the right calculation.\n")
	rows := [][]string{{"family", "name", "watch", "at", "alert", "at", "named", "a·b+c, a·(b+c)", "slowest"}}
	for i := 0; i < len(r.Families); {
		n := i + 1
		for n < len(r.Families) && r.Families[n].Group == r.Families[i].Group {
			n++
		}
		rows = append(rows, familyRow(r.Families[i:n]))
		i = n
	}
	writeColumns(b, rows)
}

func familyRow(group []familyReport) []string {
	id, name := group[0].ID, group[0].Name
	if len(group) > 1 {
		id = fmt.Sprintf("%s (%d)", group[0].Group, len(group))
	}
	var watch, alert, naive []int
	all, named, worst := 0, 0, 0
	slowest := ""
	for _, f := range group {
		for _, i := range f.Implants {
			all++
			if i.Watch > 0 {
				watch = append(watch, i.Watch)
			}
			if i.Naive > 0 {
				naive = append(naive, i.Naive)
			}
			if i.Alert > 0 {
				alert = append(alert, i.Alert)
			}
			if i.Named {
				named++
			}
			at := i.Alert
			if at == 0 {
				at = math.MaxInt
			}
			if at > worst {
				worst = at
				slowest = fmt.Sprintf("%s, %s", f.ID, i.Around)
			}
		}
	}
	of := func(n int) string { return fmt.Sprintf("%d/%d", n, all) }
	at := func(list []int) string {
		if len(list) == 0 {
			return "-"
		}
		return fmt.Sprintf("%d, %d", median(list), slices.Max(list))
	}
	return []string{id, name, of(len(watch)), at(watch), of(len(alert)), at(alert), of(named), of(len(naive)), slowest}
}

func (r *evaluationReport) writeFalse(b *strings.Builder) {
	fmt.Fprintf(b, "\nFalse hits by threshold, in %.4g client-days without implant and on benign connections of infected hosts\n", r.World.ClientDays)
	rows := [][]string{{"e-value", "implants found", "by 3rd contact", "at 1st", "false", "per client-day", "on infected", "per client-day", "bound", "decoys", "false ÷ decoys"}}
	for _, t := range r.ByLevel {
		rows = append(rows, []string{
			fmt.Sprintf("%.0e", t.EValue), fmt.Sprintf("%.3f", t.Found), fmt.Sprintf("%.3f", t.FoundThird), fmt.Sprintf("%.3f", t.FoundFirst),
			fmt.Sprint(t.False), fmt.Sprintf("%.3g", t.FalsePerDay), fmt.Sprint(t.InfectedFalse), fmt.Sprintf("%.3g", t.InfectedPerDay),
			fmt.Sprintf("%.3g", t.Expected), fmt.Sprint(t.Decoys), t.ratioText(),
		})
	}
	writeColumns(b, rows)
	fmt.Fprintf(b, "\nAt watch %.3g and alert %.3g, number and per client-day\n", r.Watch, r.Alert)
	f := &r.False
	rows = [][]string{{"", "alerts", "", "watches", "", "leads", ""}}
	for _, l := range []struct {
		name   string
		counts *levelCounts
		rates  levelRates
	}{
		{"hosts without implant", &f.Clean, f.CleanPerDay}, {"benign on infected hosts", &f.Infected, f.InfectedPerDay},
		{"decoys (scrambled answers)", &f.Decoys, f.DecoysPerDay}, {"bound (trials ÷ e-value)", nil, f.Bound},
	} {
		row := []string{l.name, "", fmt.Sprintf("%.3g", l.rates.Alerts), "", fmt.Sprintf("%.3g", l.rates.Watches), "", fmt.Sprintf("%.3g", l.rates.Leads)}
		if l.counts != nil {
			row[1], row[3], row[5] = fmt.Sprint(l.counts.Alerts), fmt.Sprint(l.counts.Watches), fmt.Sprint(l.counts.Leads)
		} else {
			row[6] = ""
		}
		rows = append(rows, row)
	}
	writeColumns(b, rows)
	fmt.Fprintf(b, "\nWithout lookups and baseline (port is a·b+c or a·(b+c)): %d benign connections, %.3g per client-day\n", r.Naive.Hits, r.Naive.PerDay)
	if r.Unlabelled > 0 {
		fmt.Fprintf(b, "%s of a connection longer ago than labels are kept: in no column above\n", count(r.Unlabelled, "hit", "hits"))
	}
	if len(r.Sources) == 0 {
		return
	}
	b.WriteString("\nWhat the false hits come from\n")
	rows = [][]string{{"source", "host", "hypothesis", "clients", "alerts", "watches", "leads", "largest e", "example"}}
	for _, s := range r.Sources {
		host := "clean"
		if s.Infected {
			host = "infected"
		}
		rows = append(rows, []string{
			s.Source, host, s.Hypothesis, fmt.Sprint(s.Clients), fmt.Sprint(s.Alerts), fmt.Sprint(s.Watches), fmt.Sprint(s.Leads), fmt.Sprintf("%.2g", s.Largest), s.Example,
		})
	}
	writeColumns(b, rows)
}

// ratioText writes the interval of the ratio.
func (t *thresholdReport) ratioText() string {
	switch {
	case t.False+t.InfectedFalse+t.Decoys == 0:
		return "-"
	case t.RatioHigh == nil:
		return fmt.Sprintf("%.2g or more", t.RatioLow)
	}
	return fmt.Sprintf("%.2g to %.2g", t.RatioLow, *t.RatioHigh)
}

// writeLate prints what the contacts of each implant were worth that came to an alert later than wanted.
func (r *evaluationReport) writeLate(b *strings.Builder) {
	rows := [][]string{{"family", "host", "wanted", "alert", "contact", "e-value", "fits", "answers", "constants", "chance, 1 in", "trials before", "as"}}
	for i := range r.Families {
		f := &r.Families[i]
		for _, x := range f.Implants {
			if x.Alert > 0 && x.Alert <= wanted(f) || x.Alert == 0 && x.Contacts < wanted(f) {
				continue
			}
			head := []string{f.ID, x.Around, fmt.Sprint(wanted(f)), fmt.Sprint(x.Alert)}
			if x.Alert == 0 {
				head[3] = fmt.Sprintf("none in %d", x.Contacts)
			}
			for _, t := range x.Trials {
				rows = append(rows, append(head, fmt.Sprint(t.Contact), fmt.Sprintf("%.2g", t.EValue), fmt.Sprint(t.Support), fmt.Sprint(t.Answers),
					fmt.Sprint(t.Constants), fmt.Sprintf("%.3g", 1/t.Chance), fmt.Sprint(t.Trials), t.As))
				head = []string{"", "", "", ""}
			}
			if len(x.Trials) == 0 {
				rows = append(rows, append(head, "", "", "", "", "", "", "", "no hit"))
			}
		}
	}
	if len(rows) == 1 {
		return
	}
	fmt.Fprintf(b, `
Alerts later than wanted, and what each contact was worth. A hypothesis that fits for the first time is worth
its weight × %.3f ÷ (answers × constants × chance of the port or destination); the next fit multiplies
that. It fades with each trial in between that the hypothesis does not predict, so that on a host that walks
through destinations every contact stands alone. A contact that is missing was worth less than %g.
`, evidence.MeanShare(), r.Watch)
	writeColumns(b, rows)
}

// writeColumns writes rows below each other, the last column as long as it is.
func writeColumns(b *strings.Builder, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := " "
		for i, cell := range row {
			line += " " + cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+1)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
