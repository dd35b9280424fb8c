package attribute

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"portolan/sensor/event"
)

// Status says how a hit was attributed.
type Status string

// The statuses of a Finding.
const (
	Matched   Status = "matched"   // one process is meant
	Ambiguous Status = "ambiguous" // several may be meant: the candidates
	Unmatched Status = "unmatched" // no process; the host, when it is known
)

// Method says by what records were joined.
type Method string

// The methods, strongest first.
const (
	ByTuple       Method = "exact"        // both sockets of the connection
	ByCommunityID Method = "community-id" // the hash of both
	ByDestination Method = "dst-tuple"    // destination and time, as the record has no source port
	ByLookup      Method = "lookup"       // who asked the question whose answer was used
	ByHost        Method = "host"         // only the host is known
)

// Candidate is a process that may have made a connection.
type Candidate struct {
	HostID string
	Ref    uint64     // of the record that says most, for reading it again
	PID    uint32     // 0 when the record does not know it
	Start  event.Time // of the process; 0 when the record does not know it
	Time   event.Time // of the record
}

// Finding is what is known of a hit now. A Finding with a higher Step rests on more; findings of one
// hit with the same Step are the same.
type Finding struct {
	Hit      [16]byte
	Ref      uint64 // of the hit, as it was observed with its newest revision
	Revision uint32 // of the sensor
	Step     uint32 // from 1 to MaxStep
	// Kept says that Step was told before, with an older revision of the hit: what was published then
	// holds, and nothing below is set.
	Kept bool

	Status     Status
	Method     Method
	Confidence float64 // from 0 to 1
	Reason     string
	HostID     string      // empty when no host, or more than one, is meant
	Candidates []Candidate // one when matched; at most maxCandidates
	Processes  int         // how many they are in truth
	Records    int         // that fit, the refused ones among them
	Refused    int         // of those, records of hosts that do not have the address
	Skew       time.Duration
	HasSkew    bool // Skew is the host's clock against the sensor's: learnt, or of this very match
}

// A step is the class of the strongest method that any record offers, higher by stepNamed when the
// sensor's own name for the client says which host is meant, and how many records and facts went into
// it. What comes later only ever adds to it, so that the highest step is the last word whatever came first.
const (
	stepClass = 1000
	stepNamed = 10 * stepClass
	// MaxStep is the highest Step.
	MaxStep = stepNamed + classExact*stepClass + stepClass - 1

	classNone        = 1
	classLookup      = 2
	classDestination = 3
	classCommunity   = 4
	classExact       = 5

	maxCandidates = 8
)

// How sure a match is, by method. The five-tuple at the right time leaves room for little more than
// a clock that is off while a port is used again; who asked may not be who connects.
const (
	sureExact       = 0.99
	sureCommunity   = 0.95
	sureSkew        = 0.9 // destination and time, the host's clock being known
	sureDestination = 0.8
	sureLookup      = 0.5
	sureHost        = 0.3
)

// meant returns the hosts that may be the client of a hit, by their own word, in the order of their ids.
// Those that bear the name which the sensor saw go before all others; named says that there are some.
func (j *Joiner) meant(e *entry) (list []uint32, named bool) {
	client := e.Src.Addr()
	list = j.hosts.holders(client, e.Time)
	for i := range j.cfg.NAT {
		n := &j.cfg.NAT[i]
		switch {
		case !n.covers(client, e.Time):
		case n.oneToOne():
			list = append(list, j.hosts.holders(n.inside(client), e.Time)...)
		default:
			for k := range j.hosts.list {
				if j.hosts.holdsIn(uint32(k), n.Inside, e.Time) {
					list = append(list, uint32(k))
				}
			}
		}
	}
	slices.SortFunc(list, func(x, y uint32) int { return strings.Compare(j.hosts.list[x].id, j.hosts.list[y].id) })
	list = slices.Compact(list)
	if e.Host != "" {
		same := slices.DeleteFunc(slices.Clone(list), func(n uint32) bool { return !sameName(j.hosts.list[n].name, e.Host) })
		if len(same) > 0 {
			return same, true
		}
	}
	return list, false
}

// sameName reports whether two names are one host's: the first label counts, as one of them may be short.
func sameName(a, b string) bool {
	a, _, _ = strings.Cut(a, ".")
	b, _, _ = strings.Cut(b, ".")
	return a != "" && strings.EqualFold(a, b)
}

// shared reports whether several hosts behind one outside address may be meant, whose ports are not kept.
func (j *Joiner) shared(e *entry) bool {
	return slices.ContainsFunc(j.cfg.NAT, func(n NAT) bool { return !n.oneToOne() && n.covers(e.Src.Addr(), e.Time) })
}

// sources returns the sockets that a hit may have at its host.
func (j *Joiner) sources(e *entry) []netipPort {
	list := []netipPort{e.src}
	for i := range j.cfg.NAT {
		if n := &j.cfg.NAT[i]; n.oneToOne() && n.covers(e.Src.Addr(), e.Time) {
			list = append(list, flat(netip.AddrPortFrom(n.inside(e.Src.Addr()), e.Src.Port())))
		}
	}
	return list
}

// evidence is what records say of a hit, by class.
type evidence struct {
	meant   []uint32
	named   bool
	shared  bool // see Joiner.shared
	by      [classExact + 1][]sighting
	tuples  []sighting // five-tuples, of every host that claims the address: they tell of its clock
	refused int
}

func (j *Joiner) gather(e *entry) evidence {
	v := evidence{shared: j.shared(e)}
	v.meant, v.named = j.meant(e)
	sources := j.sources(e)
	for _, s := range e.found {
		class := classDestination
		switch {
		case s.kind == Lookup:
			class = classLookup
		case s.named:
			class = classCommunity
		case s.local.port == 0: // its source does not know
		case slices.Contains(sources, s.local):
			class = classExact
		case slices.ContainsFunc(sources, func(p netipPort) bool { return p.addr == s.local.addr }):
			if !v.shared {
				continue // another connection of the same host
			}
		}
		if class == classExact && j.claims(s.host, e) {
			v.tuples = append(v.tuples, s)
		}
		if !slices.Contains(v.meant, s.host) {
			if s.local.addr == e.src.addr {
				v.refused++
			}
			continue
		}
		v.by[class] = append(v.by[class], s)
	}
	return v
}

// weigh finds what is known of a hit, and of those that learn from it. Each is appended to dst when it
// is more than was told, and nothing that may contradict it is waited for.
func (j *Joiner) weigh(dst []Finding, e *entry, now event.Time) []Finding {
	if e.gone {
		return dst
	}
	v := j.gather(e)
	class := classExact
	for class > classNone && len(v.by[class]) == 0 {
		class--
	}
	dst = j.tell(dst, e, &v, class, now)
	for i := range v.tuples {
		s := &v.tuples[i]
		if !j.hosts.list[s.host].learn(sample{e.ID, s.offset(e)}) {
			continue
		}
		for _, x := range j.clients(j.hosts.list[s.host].addresses) {
			if x == e || len(x.found) == 0 {
				continue
			}
			if w := j.gather(x); len(w.by[classExact]) == 0 {
				dst = j.weigh(dst, x, now)
			}
		}
	}
	return dst
}

// tell appends what is known of a hit to dst, when it is time to.
func (j *Joiner) tell(dst []Finding, e *entry, v *evidence, class int, now event.Time) []Finding {
	f := Finding{Hit: e.ID, Ref: e.Ref, Revision: e.Revision, Refused: v.refused, Records: v.refused + len(v.by[class])}
	count := len(v.meant) + f.Records
	switch class {
	case classNone:
		count = 10*j.none(&f, e, v.meant) + min(count, 9)
	case classLookup, classDestination:
		count += j.near(&f, e, v, class)
	default:
		j.sure(&f, e, v, class)
	}
	f.Step = uint32(class*stepClass + min(count, stepClass-1))
	if v.named {
		f.Step += stepNamed
	}
	if f.Step <= e.Told {
		if e.Revision <= e.ToldRevision {
			return dst
		}
		f = Finding{Hit: e.ID, Ref: e.Ref, Revision: e.Revision, Step: e.Told, Kept: true}
	} else if class < classCommunity && !j.ripe(e, class, now) {
		return dst
	}
	e.Told, e.ToldRevision = f.Step, e.Revision
	j.stats.Findings++
	return append(dst, f)
}

// ripe reports whether what is weaker than the five-tuple may be told.
func (j *Joiner) ripe(e *entry, class int, now event.Time) bool {
	switch {
	case e.Told > 0: // it was told once, so that the time for others is over
		return true
	case class == classNone:
		return e.due != 0 && now >= e.due
	case e.due != 0 && now >= e.due:
		return true
	}
	if settle := now.Add(j.cfg.Settle); e.due == 0 || settle < e.due {
		e.due = settle
		j.push(e)
	}
	return now >= e.due
}

// sure fills in what records say that name the connection.
func (j *Joiner) sure(f *Finding, e *entry, v *evidence, class int) {
	f.Method, f.Confidence = ByTuple, sureExact
	what := "the connection's addresses and ports"
	if class == classCommunity {
		f.Method, f.Confidence, what = ByCommunityID, sureCommunity, "the connection's Community ID"
	}
	list := v.by[class]
	// Ports are used again: the nearest in time is meant, with those that are as near.
	nearest := list[0].offset(e).Abs()
	list = slices.DeleteFunc(slices.Clone(list), func(s sighting) bool { return s.offset(e).Abs()-nearest > j.cfg.Near })
	f.Skew, f.HasSkew = list[0].offset(e), true
	j.choose(f, list)
	f.Reason = fmt.Sprintf("%s names %s", plural(f.Processes, "one process", "processes"), what)
	j.contested(f, v)
}

// near fills in what records say that name less than the connection. It returns how many facts besides
// records went into it.
func (j *Joiner) near(f *Finding, e *entry, v *evidence, class int) (facts int) {
	f.Method = ByDestination
	what := "connected there at the time, and records have no source port that fits"
	if class == classLookup {
		f.Method, what = ByLookup, "asked for the name whose answer was used"
	}
	var list []sighting
	known := true
	for _, n := range v.meant {
		if k := len(j.hosts.list[n].samples); k >= skewSamples {
			facts += k
		}
	}
	for _, s := range v.by[class] {
		skew, ok := j.hosts.list[s.host].skew()
		limit := j.cfg.Near
		if !ok {
			limit, known = j.cfg.Far, false
		}
		if (s.offset(e) - skew).Abs() <= limit {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		f.Status, f.Method, f.Confidence = Unmatched, ByHost, sureHost
		f.Reason = "records of that destination are from another time"
		if class == classLookup {
			f.Reason = "records of that question are from another time"
		}
		j.only(f, v.meant)
		return facts
	}
	switch {
	case class == classLookup || v.shared: // of those behind the address some may have no agent
		f.Confidence = sureLookup
	case known:
		f.Confidence = sureSkew
	default:
		f.Confidence = sureDestination
	}
	j.choose(f, list)
	if f.HostID != "" {
		f.Skew, f.HasSkew = j.hosts.list[list[0].host].skew()
	}
	f.Reason = fmt.Sprintf("%s %s", plural(f.Processes, "one process", "processes"), what)
	j.contested(f, v)
	return facts
}

// none fills in why there is no process, and returns the reason's number: more is known with a higher one.
func (j *Joiner) none(f *Finding, e *entry, meant []uint32) int {
	f.Status = Unmatched
	if len(meant) == 0 {
		if slices.ContainsFunc(j.cfg.NAT, func(n NAT) bool { return n.covers(e.Src.Addr(), e.Time) }) {
			f.Reason = "nat: no endpoint says that it is behind that address"
			return 1
		}
		f.Reason = "no agent: no endpoint says that it has the address"
		return 1
	}
	f.Method, f.Confidence = ByHost, sureHost
	if len(meant) > 1 {
		f.Reason = fmt.Sprintf("ambiguous: %d endpoints may be the client, and none has a record of the connection", len(meant))
		f.Confidence = 0
		return 5
	}
	j.only(f, meant)
	switch x := &j.hosts.list[meant[0]]; {
	case x.heard < e.Time:
		f.Reason = "late: the endpoint has not been heard since"
		return 2
	case x.blind:
		f.Reason = "filtered source: the endpoint's source does not see connections"
		return 3
	}
	f.Reason = "not seen: the endpoint was heard since, and has no record of the connection"
	return 4
}

// only names the host when there is one.
func (j *Joiner) only(f *Finding, meant []uint32) {
	if len(meant) == 1 {
		f.HostID = j.hosts.list[meant[0]].id
	}
}

// contested says so when it is not known whose address it was.
func (j *Joiner) contested(f *Finding, v *evidence) {
	if f.Status == Matched && len(v.meant) > 1 && !v.shared {
		f.Status, f.HostID = Ambiguous, ""
		f.Confidence /= float64(len(v.meant))
		f.Reason += fmt.Sprintf("; but %d endpoints may have had the address", len(v.meant))
	}
}

// choose fills in the processes that records are of.
func (j *Joiner) choose(f *Finding, list []sighting) {
	slices.SortFunc(list, func(a, b sighting) int {
		return cmp.Or(strings.Compare(j.hosts.list[a.host].id, j.hosts.list[b.host].id), cmp.Compare(a.pid, b.pid),
			cmp.Compare(b.start, a.start), cmp.Compare(a.time, b.time), cmp.Compare(a.ref, b.ref)) // a start that is known comes before one that is not
	})
	var first *sighting // of the process at hand
	for i := range list {
		s := &list[i]
		if first != nil && s.host == first.host && s.pid == first.pid && sameStart(s.start, first.start) {
			continue
		}
		first = s
		if f.Processes++; len(f.Candidates) < maxCandidates {
			f.Candidates = append(f.Candidates, Candidate{j.hosts.list[s.host].id, s.ref, s.pid, s.start, s.time})
		}
	}
	f.Status = Matched
	if f.Processes > 1 {
		f.Status = Ambiguous
		f.Confidence /= float64(f.Processes)
	}
	if host := f.Candidates[0].HostID; !slices.ContainsFunc(list, func(s sighting) bool { return j.hosts.list[s.host].id != host }) {
		f.HostID = host
	}
}

// sameStart reports whether two starts may be of one process: sources tell them by ticks of 10 ms, or
// not at all.
func sameStart(a, b event.Time) bool {
	return a == 0 || b == 0 || a.Sub(b).Abs() <= 20*time.Millisecond
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf("%d %s", n, many)
}
