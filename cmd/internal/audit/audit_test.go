package audit

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/spool"
)

var begin = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// record is the record of the minute that ends so long after begin.
func record(sensor string, end time.Duration, verdict string) *bus.CoverageRecord {
	r := &bus.CoverageRecord{
		Sensor: sensor, Device: "eth1", Time: begin.Add(end), Interval: 60, Verdict: verdict, Frames: 1000, Bytes: 64000, Lookups: 90, Connections: 200,
		Wire:    &bus.Wire{Queries: 100, Answers: 95, SYN: 180, SYNACK: 170, Settled: 200, Explained: 180},
		Counter: "rx_dropped+rx_missed_errors", Filter: "socket filter",
		Zones:   []bus.ZoneCoverage{{Zone: "0/vlan12", Lookups: 90, Connections: 200, Explained: 180, Share: 0.9, SYN: 180}},
		Clients: &bus.Clients{Known: 40, Answered: 38, Elsewhere: 3, Only: 1, Resolvers: 1, Tenths: [10]uint64{1, 0, 0, 1, 2, 2, 4, 6, 9, 13}, Examples: []string{"192.0.2.7 in zone 0: DNS over TLS"}},
	}
	if verdict != bus.Good {
		r.Loss.Ring, r.Rule = 250, "loss.ring"
		r.Findings = []coverage.Finding{{Rule: "loss.ring", Severity: coverage.Limits, Evidence: "20 % of frames lost at the ring (250 of 1250)", Consequence: "lookups are missing"}}
		if verdict == bus.Blind {
			r.Findings[0].Severity = coverage.Disables
		}
	}
	return r
}

// day is a day of two sensors: the first is partial for an hour, blind for ten minutes and away for one hour; the second stopped at noon.
func day() *Builder {
	b := &Builder{From: begin, To: begin.Add(24 * time.Hour)}
	for m := 1; m <= 24*60; m++ {
		end := time.Duration(m) * time.Minute
		verdict := bus.Good
		switch {
		case m > 8*60 && m <= 9*60:
			verdict = bus.Partial
		case m > 15*60 && m <= 15*60+10:
			verdict = bus.Blind
		}
		if m <= 20*60 || m > 21*60 {
			r := record("hq-1", end, verdict)
			wave := 1 + math.Sin(float64(m)/229)*0.6
			r.Wire.Answers, r.Connections = uint64(90*wave), uint64(200*wave)
			b.Record(r)
		}
		if m <= 12*60 {
			b.Record(record("dmz-1", end, bus.Good))
		}
	}
	return b
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-6 }

func TestReportOfADay(t *testing.T) {
	r := day().Report(begin.Add(25*time.Hour), nil)
	if r.Verdict != bus.Partial || len(r.Sensors) != 2 || r.Sensors[0].Name != "dmz-1" || r.Step != 3600 {
		t.Fatalf("verdict %s, %d sensors, step %v", r.Verdict, len(r.Sensors), r.Step)
	}
	dmz, hq := &r.Sensors[0], &r.Sensors[1]
	if s := hq.Share; !near(s.Partial, 1./24) || !near(s.Blind, 10./24/60) || !near(s.Unknown, 1./24) || !near(s.Good+s.Partial+s.Blind+s.Unknown, 1) {
		t.Errorf("hq: %+v", s)
	}
	if s := dmz.Share; !near(s.Good, .5) || !near(s.Unknown, .5) {
		t.Errorf("dmz: %+v", s)
	}
	if s := r.Share; !near(s.Unknown, (1./24+.5)/2) {
		t.Errorf("all: %+v", s)
	}
	if len(hq.Slots) != 24 || hq.Slots[8].Worst() != bus.Partial || hq.Slots[15].Worst() != bus.Blind || hq.Slots[20].Worst() != bus.Unknown || hq.Slots[21].Worst() != bus.Good {
		t.Errorf("slots: %v %v %v %v", hq.Slots[8].Worst(), hq.Slots[15].Worst(), hq.Slots[20].Worst(), hq.Slots[21].Worst())
	}
	if s := hq.Slots[8]; s.Frames != 60000 || s.LostRing != 15000 || len(s.Rules) != 1 || s.Rules[0] != "loss.ring" {
		t.Errorf("slot of loss: %+v", s)
	}
	if len(hq.Gaps) != 1 || hq.Gaps[0] != (Gap{begin.Add(20 * time.Hour), begin.Add(21 * time.Hour), NoRecord}) {
		t.Errorf("gaps of hq: %+v", hq.Gaps)
	}
	if len(dmz.Gaps) != 1 || !dmz.Gaps[0].From.Equal(begin.Add(12*time.Hour)) || !dmz.Gaps[0].To.Equal(r.To) {
		t.Errorf("gaps of dmz: %+v", dmz.Gaps)
	}
	if len(hq.Findings) != 1 || hq.Findings[0].Seconds != 70*60 || hq.Findings[0].Severity != "blind" || !hq.Findings[0].First.Equal(begin.Add(8*time.Hour)) {
		t.Errorf("findings: %+v", hq.Findings)
	}
	if hq.Totals.Frames != 1380*1000 || hq.Totals.LostRing != 70*250 || hq.Totals.Explained != 1380*180 {
		t.Errorf("totals %+v", hq.Totals)
	}
}

// The verdict on the whole: good only when nothing was missing at all.
func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		name     string
		verdicts []string // of the minutes; "" for none
		want     string
	}{
		{"good", []string{"good", "good", "good"}, bus.Good},
		{"the last minute has no record yet", []string{"good", "good", ""}, bus.Good},
		{"one partial", []string{"good", "partial", "good"}, bus.Partial},
		{"one missing", []string{"good", "", "good"}, bus.Partial},
		{"blind", []string{"blind", "blind", "blind"}, bus.Blind},
		{"blind or missing", []string{"blind", "", "blind"}, bus.Blind},
		{"nothing", []string{"", "", ""}, bus.Unknown},
	} {
		b := Builder{From: begin, To: begin.Add(3 * time.Minute)}
		for i, v := range tt.verdicts {
			if v != "" {
				b.Record(record("hq-1", time.Duration(i+1)*time.Minute, v))
			}
		}
		if r := b.Report(b.To, nil); r.Verdict != tt.want {
			t.Errorf("%s: %s, %+v, want %s", tt.name, r.Verdict, r.Share, tt.want)
		}
	}
}

// A few seconds between two records are no gap; records that overlap count once; what lies outside counts not at all.
func TestIntervals(t *testing.T) {
	b := Builder{From: begin, To: begin.Add(10 * time.Minute), Only: "hq-1"}
	for _, end := range []int{0, 61, 122, 183, 190, 244, 305, 366, 427, 488, 549, 600, 720} {
		b.Record(record("hq-1", time.Duration(end)*time.Second, bus.Good))
	}
	b.Record(record("other", 60*time.Second, bus.Blind))
	r := b.Report(b.To, nil)
	if len(r.Sensors) != 1 || len(r.Sensors[0].Gaps) != 0 || !near(r.Sensors[0].Share.Good, 1) || r.Sensors[0].Records != 11 {
		t.Errorf("%+v", r.Sensors)
	}
}

// A gap that the sensor itself tells of stands in every record that it touches, and in the report once.
func TestGapsOfTheSensor(t *testing.T) {
	b := Builder{From: begin, To: begin.Add(3 * time.Minute)}
	from, to := begin.Add(50*time.Second), begin.Add(130*time.Second)
	first, second, third := record("hq-1", time.Minute, bus.Partial), record("hq-1", 2*time.Minute, bus.Blind), record("hq-1", 3*time.Minute, bus.Partial)
	first.Gaps = []bus.Gap{{From: from, Cause: "link down"}}
	second.Gaps = first.Gaps
	third.Gaps = []bus.Gap{{From: from, To: &to, Cause: "interface gone"}}
	for _, r := range []*bus.CoverageRecord{third, first, second} {
		b.Record(r)
	}
	if g := b.Report(b.To, nil).Sensors[0].Gaps; len(g) != 1 || g[0] != (Gap{from, to, "interface gone"}) {
		t.Errorf("gaps %+v", g)
	}
}

func hit(id string, revision uint32, level, state string, sequence uint64) *bus.Message {
	m := &bus.Message{Timestamp: begin.Add(time.Hour), Observer: bus.Observer{Name: "hq-1"}}
	m.Source.IP, m.Destination.IP, m.Destination.Port = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("198.51.100.8"), 4444
	m.Network.Transport, m.Rule.Name = "tcp", "half-swap"
	p := &m.Portolan
	p.HitID, p.Revision, p.Level, p.State, p.Sequence = id, revision, level, state, sequence
	p.Attribution.Status, p.Coverage.Verdict, p.Lookup.Name = "pending", bus.Good, "ns1.example"
	return m
}

// Of each hit the newest revision counts, in whatever order they come, and what was taken back is none.
func TestHits(t *testing.T) {
	b := day()
	enriched := hit("a", 3, "alert", "enriched", 7)
	enriched.Portolan.Attribution.Status = "matched"
	lowered := hit("c", 2, "watch", "final", 6)
	lowered.Portolan.Downgraded = &bus.Downgrade{From: "alert", Rule: "loss.ring", Why: "half"}
	lowered.Portolan.Coverage.Verdict = bus.Blind
	summary := hit("d", 1, "alert", "final", 8)
	summary.Portolan.Suppressed = &bus.Suppressed{Count: 40}
	outside := hit("e", 1, "alert", "final", 9)
	outside.Timestamp = begin.Add(-time.Second)
	for _, m := range []*bus.Message{
		enriched, hit("a", 1, "watch", "provisional", 1), hit("a", 2, "alert", "final", 2), hit("b", 1, "watch", "provisional", 3), hit("b", 2, "none", "retracted", 4),
		lowered, hit("f", 1, "lead", "final", 5), summary, outside,
	} {
		b.Hit(m)
	}
	h := b.Report(b.To, nil).Hits
	if h.Levels["alert"] != 1 || h.Levels["watch"] != 1 || h.Levels["lead"] != 1 || h.Retracted != 1 || h.Downgraded != 1 || h.Suppressed != 40 ||
		h.Attribution["matched"] != 1 || h.Attribution["pending"] != 2 || h.Coverage[bus.Blind] != 1 {
		t.Errorf("hits %+v", h)
	}
	if len(h.List) != 3 || h.List[0].ID != "a" || h.List[0].Status != "matched" || h.List[0].Destination != "198.51.100.8:4444/tcp" || h.List[2].Level != "lead" {
		t.Errorf("list %+v", h.List)
	}
}

// Messages that are missing are told apart: those that a record accounts for, and the others.
func TestMissingMessages(t *testing.T) {
	b := day()
	for _, q := range []uint64{10, 11, 15} {
		b.Hit(hit("a", 1, "alert", "final", q))
	}
	r := record("hq-1", 24*time.Hour, bus.Good)
	r.Delivery = &bus.Delivery{Sequence: 16, Missing: []spool.Gap{{First: 12, Last: 13}}}
	b.Record(r)
	s := b.Report(b.To, nil).Sensors[1]
	if len(s.Named) != 1 || s.Named[0].First != 12 || len(s.Missing) != 2 || s.Missing[0].First != 14 || s.Missing[1].First != 16 {
		t.Errorf("named %+v, missing %+v", s.Named, s.Missing)
	}
	lines := strings.Join(s.delivery(), "\n")
	if !strings.Contains(lines, "2 messages in 2 runs are missing") || !strings.Contains(lines, "2 messages in 1 runs will never come") {
		t.Errorf("delivery:\n%s", lines)
	}
}

// The three forms of a report tell the same.
func TestForms(t *testing.T) {
	b := day()
	b.Hit(hit("a", 1, "alert", "final", 1))
	lowered := hit("c", 2, "watch", "final", 2)
	lowered.Portolan.Downgraded = &bus.Downgrade{From: "alert", Rule: "loss.ring"}
	b.Hit(lowered)
	r := b.Report(begin.Add(24*time.Hour), []bus.Stored{{Stream: bus.OpsStream, Messages: 2100, Bytes: 4 << 20, First: begin, Last: begin.Add(24 * time.Hour), MaxAge: 720 * time.Hour, MaxBytes: 256 << 20}})
	var text, html bytes.Buffer
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.Page("1.0").Write(&html); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PARTIAL", "Sensor hq-1 on eth1", "2026-03-02 20:00:00", "loss.ring", "0/vlan12", "198.51.100.8:4444/tcp", "PORTOLAN_OPS", "rx_dropped"} {
		if want != "rx_dropped" && !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
		if !strings.Contains(html.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	back := new(Report)
	if err := json.Unmarshal(data, back); err != nil || back.Share != r.Share || len(back.Sensors[1].Slots) != 24 {
		t.Errorf("as JSON: %v, %+v", err, back.Share)
	}
	if path := os.Getenv("PORTOLAN_KEEP_PAGE"); path != "" { // to look at
		if err := os.WriteFile(path, html.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	empty := (&Builder{From: begin, To: begin.Add(time.Hour)}).Report(begin, nil)
	html.Reset()
	if err := empty.Page("1.0").Write(&html); err != nil || !strings.Contains(html.String(), "No sensor has a record") {
		t.Errorf("an empty report: %v", err)
	}
}

func TestLasted(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0s", 59.6: "1m0s", 3600: "1h", 70 * 60: "1h10m", 25 * 3600: "25h", 72 * 3600: "3.0 days"} {
		if got := lasted(seconds); got != want {
			t.Errorf("lasted(%v) = %q, want %q", seconds, got, want)
		}
	}
}
