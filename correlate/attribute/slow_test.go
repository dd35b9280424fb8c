package attribute

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/sensor/event"
)

// slow is the definition of what is found in the end, given everything at once: no index, no memory,
// no order.
type slow struct {
	cfg     Config
	hits    []Hit
	records []Record
}

// holds: a host has an address from one interval before it says so to two after.
func (s *slow) holds(host string, a netip.Addr, t event.Time) bool {
	return slices.ContainsFunc(s.records, func(r Record) bool {
		return r.Kind == Host && r.HostID == host && slices.Contains(r.About.Addresses, a) &&
			t >= r.Time-event.Time(r.About.Interval) && t <= r.Time+2*event.Time(r.About.Interval)
	})
}

// sources returns where a hit may come from: sockets at its host, and prefixes of which any address may be meant.
func (s *slow) sources(h *Hit) (sockets []netip.AddrPort, prefixes []netip.Prefix) {
	sockets = []netip.AddrPort{h.Src}
	for _, n := range s.cfg.NAT {
		if !n.Outside.Contains(h.Src.Addr()) {
			continue
		}
		if n.Inside.Bits() != n.Outside.Bits() {
			prefixes = append(prefixes, n.Inside)
			continue
		}
		for a := n.Inside.Addr(); n.Inside.Contains(a); a = a.Next() { // as far from the start as outside
			if a.As4()[3]-n.Inside.Addr().As4()[3] == h.Src.Addr().As4()[3]-n.Outside.Addr().As4()[3] {
				sockets = append(sockets, netip.AddrPortFrom(a, h.Src.Port()))
			}
		}
	}
	return sockets, prefixes
}

// meant returns the hosts that may be the client, those with the name that the sensor saw before others.
func (s *slow) meant(h *Hit) (list []string, named bool) {
	list, same := s.claim(h)
	if len(same) > 0 {
		return same, true
	}
	return list, false
}

// claim returns the hosts that say they have the client's address, and those of them with the name
// that the sensor saw.
func (s *slow) claim(h *Hit) (list, same []string) {
	sockets, prefixes := s.sources(h)
	for _, r := range s.records {
		if r.Kind != Host || slices.Contains(list, r.HostID) {
			continue
		}
		mine := slices.ContainsFunc(sockets, func(a netip.AddrPort) bool { return s.holds(r.HostID, a.Addr(), h.Time) })
		for _, p := range prefixes {
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				mine = mine || s.holds(r.HostID, a, h.Time)
			}
		}
		if mine {
			list = append(list, r.HostID)
			if h.Host == r.Host {
				same = append(same, r.HostID)
			}
		}
	}
	return list, same
}

// exact returns the records of a host that name the hit's five-tuple.
func (s *slow) exact(h *Hit, host string) (list []Record) {
	sockets, _ := s.sources(h)
	for _, r := range s.records {
		if r.Kind == Connect && r.HostID == host && slices.Contains(sockets, r.Local) && r.Remote == h.Dst && r.Proto == h.Proto &&
			r.Time.Sub(h.Time).Abs() <= s.cfg.Window {
			list = append(list, r)
		}
	}
	return list
}

// skew is the median of what matches of five-tuples say of a host's clock.
func (s *slow) skew(host string) (time.Duration, int) {
	var all []time.Duration
	for i := range s.hits {
		h := &s.hits[i]
		said := map[time.Duration]bool{}
		if claim, _ := s.claim(h); slices.Contains(claim, host) {
			for _, r := range s.exact(h, host) {
				said[r.Time.Sub(h.Time)] = true
			}
		}
		all = slices.AppendSeq(all, maps.Keys(said))
	}
	if len(all) < skewSamples {
		return 0, 0
	}
	slices.Sort(all)
	return all[(len(all)-1)/2], len(all)
}

// find returns what is found of a hit: the step, who it was, and how sure.
func (s *slow) find(h *Hit) (f Finding) {
	meant, named := s.meant(h)
	sockets, prefixes := s.sources(h)
	by := map[int][]Record{}
	for _, r := range s.records {
		if r.Kind == Host {
			continue
		}
		since := r.Time.Sub(h.Time)
		if r.Kind == Lookup {
			since = r.Time.Sub(h.LookupTime)
		}
		there := r.Remote == h.Dst && r.Proto == h.Proto
		switch {
		case since.Abs() > s.cfg.Window:
			continue
		case r.Kind == Lookup && r.Query != h.Name, r.Kind == Connect && r.CommunityID == "" && !there,
			r.CommunityID != "" && r.CommunityID != h.CommunityID:
			continue
		}
		port := slices.ContainsFunc(sockets, func(a netip.AddrPort) bool { return a.Addr() == r.Local.Addr() }) && r.Local.Port() != 0
		class := classDestination
		switch {
		case r.Kind == Lookup:
			class = classLookup
		case r.CommunityID != "":
			class = classCommunity
		case slices.Contains(sockets, r.Local):
			class = classExact
		case port && len(prefixes) == 0:
			continue
		}
		if !slices.Contains(meant, r.HostID) {
			if r.Local.Addr() == h.Src.Addr() {
				f.Refused++
			}
			continue
		}
		by[class] = append(by[class], r)
	}
	class := classExact
	for class > classNone && len(by[class]) == 0 {
		class--
	}
	f.Hit, f.Revision = h.ID, h.Revision
	f.Records = f.Refused + len(by[class])
	n := len(meant) + f.Records
	var list []Record
	switch class {
	case classExact, classCommunity:
		nearest := by[class][0]
		for _, r := range by[class] {
			if r.Time.Sub(h.Time).Abs() < nearest.Time.Sub(h.Time).Abs() {
				nearest = r
			}
		}
		for _, r := range by[class] {
			if r.Time.Sub(h.Time).Abs()-nearest.Time.Sub(h.Time).Abs() <= s.cfg.Near {
				list = append(list, r)
			}
		}
		f.Method = map[int]Method{classExact: ByTuple, classCommunity: ByCommunityID}[class]
	case classDestination, classLookup:
		f.Method = map[int]Method{classDestination: ByDestination, classLookup: ByLookup}[class]
		for _, host := range meant {
			_, samples := s.skew(host)
			n += samples
		}
		for _, r := range by[class] {
			skew, samples := s.skew(r.HostID)
			limit := s.cfg.Far
			if samples > 0 {
				limit = s.cfg.Near
			}
			since := r.Time.Sub(h.Time)
			if r.Kind == Lookup {
				since = r.Time.Sub(h.LookupTime)
			}
			if (since - skew).Abs() <= limit {
				list = append(list, r)
			}
		}
	}
	processes, hosts := map[string]bool{}, map[string]bool{}
	for _, r := range list {
		processes[fmt.Sprint(r.HostID, r.Process.PID, r.Process.Start)] = true
		hosts[r.HostID] = true
	}
	f.Processes = len(processes)
	switch {
	case f.Processes == 0:
		f.Status, f.Method = Unmatched, ByHost
		if len(meant) == 0 {
			f.Method = ""
		}
		if len(meant) == 1 {
			f.HostID = meant[0]
		}
	case f.Processes > 1, len(meant) > 1 && len(prefixes) == 0:
		f.Status = Ambiguous
	default:
		f.Status = Matched
	}
	if len(hosts) == 1 && (f.Processes > 1 || f.Status == Matched) {
		f.HostID = list[0].HostID
	}
	f.Step = uint32(class*stepClass + n)
	if class == classNone {
		f.Step = 0 // the reason's number is in it, which the table of methods checks
	} else if named {
		f.Step += stepNamed
	}
	return f
}

// world makes hosts, hits and records that often, and often do not, belong together.
func world(rng *rand.Rand) *slow {
	s := &slow{cfg: smallConfig()}
	s.cfg.HitBytes, s.cfg.RecordBytes, s.cfg.HostBytes = 1<<20, minBytes, minBytes // enough: nothing has to make room
	s.cfg.NAT = []NAT{
		{Inside: netip.MustParsePrefix("10.0.0.0/29"), Outside: netip.MustParsePrefix("203.0.113.8/29")},
		{Inside: netip.MustParsePrefix("10.0.0.0/29"), Outside: netip.MustParsePrefix("203.0.113.77/32")},
	}
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	times := []time.Duration{0, time.Millisecond, 300 * time.Millisecond, 2 * time.Second, 4 * time.Second, 30 * time.Second, time.Hour}
	when := func() event.Time {
		d := times[rng.IntN(len(times))]
		if rng.IntN(2) == 0 {
			d = -d
		}
		return noon.Add(d)
	}
	clients := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "203.0.113.9", "203.0.113.77"}
	dsts := []string{"198.51.100.1:80", "198.51.100.2:80"}
	ports := []string{"1000", "1001", "1002"}
	for i := range 1 + rng.IntN(8) {
		h := *testHit(byte(i))
		h.Time = noon.Add(time.Duration(rng.IntN(3)) * 200 * time.Millisecond)
		h.LookupTime = h.Time.Add(-time.Second)
		h.Src = netip.MustParseAddrPort(pick(clients...) + ":" + pick(ports...))
		h.Dst = netip.MustParseAddrPort(pick(dsts...))
		h.CommunityID, h.Name, h.Host = pick("1:a", "1:b"), pick("a.example", "b.example"), pick("", "", "h1", "h2")
		s.hits = append(s.hits, h)
	}
	for i := range rng.IntN(40) {
		var r *Record
		host := pick("h1", "h2", "h3")
		switch rng.IntN(4) {
		case 0:
			r = says(host, when(), pick(clients[:3]...), pick("172.17.0.2", clients[0], "10.0.0.4"))
			r.About.Interval = int64(time.Hour)
		case 1:
			r = asks(host, pick("a.example", "b.example"), rng.Uint32N(3), when())
		default:
			r = connects(host, "", rng.Uint32N(3), when())
			r.Remote = netip.MustParseAddrPort(pick(dsts...))
			if rng.IntN(3) > 0 {
				r.Local = netip.MustParseAddrPort(pick("10.0.0.1", "10.0.0.2", "10.0.0.3", "172.17.0.2") + ":" + pick(ports...))
			} else if rng.IntN(3) == 0 {
				r.Remote, r.CommunityID = netip.AddrPort{}, pick("1:a", "1:b")
			}
		}
		r.ID = fmt.Sprint(i)
		if !slices.ContainsFunc(s.records, func(x Record) bool { x.ID = r.ID; return reflect.DeepEqual(x, *r) }) {
			s.records = append(s.records, *r)
		}
	}
	return s
}

// play gives everything to joiners in some order, some of it twice, and returns the last word on each hit.
func play(t *testing.T, s *slow, rng *rand.Rand, joiners int) map[[16]byte]Finding {
	t.Helper()
	last := map[[16]byte]Finding{}
	var all []*Joiner
	for range joiners {
		all = append(all, newJoiner(t, s.cfg))
	}
	publish := func(list []Finding) {
		for _, f := range list {
			old, known := last[f.Hit]
			switch {
			case f.Kept:
				if !known || old.Step < f.Step {
					t.Errorf("keeps step %d, which nobody has told", f.Step)
				}
				if old.Step == f.Step && old.Revision < f.Revision {
					old.Revision, old.Ref = f.Revision, f.Ref
					last[f.Hit] = old
				}
			case !known || f.Step > old.Step:
				f.Revision = max(f.Revision, old.Revision)
				last[f.Hit] = f
			}
		}
		for _, f := range list {
			for _, j := range all {
				j.Told(f.Hit, f.Revision, f.Step)
			}
		}
	}
	now := noon
	for _, j := range all {
		j.Advance(nil, noon)
		ops := make([]func() []Finding, 0, 64)
		for i := range s.records {
			for range 1 + rng.IntN(2) {
				ops = append(ops, func() []Finding { return j.ObserveRecord(nil, &s.records[i], uint64(i), now) })
			}
		}
		for i := range s.hits {
			for range 1 + rng.IntN(2) {
				ops = append(ops, func() []Finding { return j.ObserveHit(nil, &s.hits[i], now) })
			}
			newer := s.hits[i]
			newer.Revision = 2
			ops = append(ops, func() []Finding { return j.ObserveHit(nil, &newer, now) })
		}
		rng.Shuffle(len(ops), func(a, b int) { ops[a], ops[b] = ops[b], ops[a] })
		for _, op := range ops {
			publish(op())
			if rng.IntN(4) == 0 {
				now = now.Add(time.Duration(rng.IntN(5)) * time.Second)
				publish(j.Advance(nil, now))
			}
		}
	}
	for _, j := range all {
		publish(j.Advance(nil, now.Add(time.Hour)))
	}
	return last
}

// TestDefinition: whatever the order in which hits and records come, how often, and to how many joiners,
// the last word is that of the definition.
func TestDefinition(t *testing.T) {
	const rounds = 300
	seen := map[string]int{}
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(uint64(seed), 7))
		s := world(rng)
		one := play(t, s, rng, 1)
		two := play(t, s, rng, 2)
		for i := range s.hits {
			h := &s.hits[i]
			got, want := one[h.ID], s.find(h)
			if !reflect.DeepEqual(got, two[h.ID]) {
				t.Errorf("seed %d, hit %d: one joiner says\n%+v\nand two in another order\n%+v", seed, h.ID[0], got, two[h.ID])
			}
			seen[fmt.Sprint(got.Status, " ", got.Method)]++
			if want.Step == 0 {
				want.Step = got.Step
			}
			if got.Status != want.Status || got.Method != want.Method || got.HostID != want.HostID || got.Processes != want.Processes ||
				got.Records != want.Records || got.Refused != want.Refused || got.Step != want.Step || len(got.Candidates) != min(want.Processes, maxCandidates) {
				t.Errorf("seed %d, hit %d: got\n%+v\nwant\n%+v", seed, h.ID[0], got, want)
			}
			if t.Failed() {
				t.Fatal(describe(s, h))
			}
		}
	}
	for _, want := range []string{"matched exact", "ambiguous exact", "matched community-id", "ambiguous community-id", "matched dst-tuple", "ambiguous dst-tuple",
		"matched lookup", "ambiguous lookup", "unmatched host", "unmatched "} {
		if seen[want] < 5 {
			t.Errorf("%q came %d times: the test says nothing of it", want, seen[want])
		}
	}
}

func describe(s *slow, h *Hit) string {
	var b strings.Builder
	fmt.Fprintf(&b, "hit %v %v→%v %s %s %q\n", h.Time.Sub(noon), h.Src, h.Dst, h.CommunityID, h.Name, h.Host)
	for _, r := range s.records {
		fmt.Fprintf(&b, "%v %s %v %v→%v %s %s pid %d", r.Kind, r.HostID, r.Time.Sub(noon), r.Local, r.Remote, r.CommunityID, r.Query, r.Process.PID)
		if r.About != nil {
			fmt.Fprint(&b, r.About.Addresses)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
