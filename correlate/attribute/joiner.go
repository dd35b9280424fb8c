package attribute

import (
	"cmp"
	"container/heap"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"time"

	"portolan/sensor/event"
)

// Hit is what a hit is joined by. It is a value of its own, so that this package needs no messages.
type Hit struct {
	ID       [16]byte
	Ref      uint64 // the caller's, such as the sequence of the newest revision in a stream
	Revision uint32 // of the sensor
	Time     event.Time
	Proto    event.Proto
	Src, Dst netip.AddrPort

	CommunityID string
	Name        string     // what the lookup asked for; empty when it is not known
	LookupTime  event.Time // of its answer
	Host        string     // the client's name as the sensor saw it, such as from DHCP; empty for none

	// Told is the step of the newest finding that was published of the hit, and ToldRevision the sensor's
	// revision that it was published with; 0 for none.
	Told         uint32
	ToldRevision uint32
}

// Want asks for the records of a host from a time on: they came before those in memory.
type Want struct {
	HostID string
	From   event.Time
}

// Stats counts what a Joiner did.
type Stats struct {
	Hits, Records, Hosts int    // in memory now; records at most what there is room for
	Bytes                int64  // of memory for these, at most
	Observed             uint64 // records taken
	HitsEvicted          uint64 // hits that made room for others
	RecordsEvicted       uint64 // records that made room for others
	Foreign              uint64 // records with a local address that their host does not say it has
	Homeless             uint64 // records of hosts, and addresses of hosts, for which there was no room
	Crowded              uint64 // hits that more records fit than are weighed
	Findings             uint64 // given back
}

// Joiner joins hits with records. What it finds in the end depends on which hits and records it
// was given, not on their order, nor on how often, as long as nothing had to make room. It has no clock:
// now is the caller's, and never goes back. One goroutine at a time may use it.
type Joiner struct {
	cfg   Config
	keys  keys
	ring  *ring
	hosts *endpoints

	hits     map[[16]byte]*entry
	byKey    map[uint64][]*entry     // by what records are looked up by, sorted by time
	byClient map[netip.Addr][]*entry // in the order in which they came
	natted   []*entry                // those whose client is an outside address
	age      []*entry                // oldest first, from its start on; those that are gone are nil
	hitBytes int64
	due      waiting
	marks    []mark
	wants    []Want
	pruned   event.Time
	stats    Stats
}

// mark says which record came first after a time.
type mark struct {
	ordinal uint64
	now     event.Time
}

// entry is a hit that records may explain.
type entry struct {
	Hit
	src, dst   netipPort
	keys       [3]uint64  // flow, question, Community ID; 0 for none
	found      []sighting // what may explain it, the nearest first
	born       event.Time // when it was seen first, by the caller's clock
	due        event.Time // when what is known is to be told; 0 for never
	gone, full bool
}

const (
	hitCost     = 640
	maxFound    = 64 // records weighed for one hit
	pruneEvery  = time.Hour
	markEvery   = 250 * time.Millisecond
	maxAnnounce = 1 << 16 // wants that wait for the caller
)

// New returns a Joiner.
func New(cfg Config) (*Joiner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Joiner{
		cfg: cfg, keys: keys{maphash.MakeSeed()}, ring: newRing(cfg.RecordBytes), hosts: newEndpoints(cfg.HostBytes),
		hits: map[[16]byte]*entry{}, byKey: map[uint64][]*entry{}, byClient: map[netip.Addr][]*entry{},
	}, nil
}

// Stats returns the counts so far.
func (j *Joiner) Stats() Stats {
	s := j.stats
	s.Hits, s.Hosts = len(j.hits), len(j.hosts.list)
	s.Records = int(j.ring.next - j.ring.oldest())
	s.Bytes = j.cfg.HitBytes + j.cfg.RecordBytes + j.cfg.HostBytes
	s.RecordsEvicted, s.Homeless = j.ring.evicted, j.hosts.lost
	return s
}

// Wants returns what the caller should read and hand to Recall.
func (j *Joiner) Wants() []Want {
	w := j.wants
	j.wants = nil
	return w
}

// ObserveHit takes a hit, or a newer revision of one, and appends to dst what is found.
func (j *Joiner) ObserveHit(dst []Finding, h *Hit, now event.Time) []Finding {
	e := j.hits[h.ID]
	if e == nil {
		e = j.add(h, now)
		j.scan(e)
		meant, _ := j.meant(e)
		for _, n := range meant {
			j.want(e, n)
		}
		return j.weigh(dst, e, now)
	}
	j.Told(h.ID, h.ToldRevision, h.Told)
	if h.Revision <= e.Revision {
		if h.Revision == e.Revision {
			e.Ref = min(e.Ref, h.Ref) // two sensors may tell of it
		}
		return dst
	}
	// The connection is the same in every revision; what the sensor knows of its host may have come since.
	e.Revision, e.Ref = h.Revision, h.Ref
	if h.Host != "" {
		e.Host = strings.Clone(brief(h.Host))
	}
	return j.weigh(dst, e, now)
}

// Told says that a finding was published, by this caller or another.
func (j *Joiner) Told(id [16]byte, revision, step uint32) {
	if e := j.hits[id]; e != nil && (revision > e.ToldRevision || revision == e.ToldRevision && step > e.Told) {
		e.ToldRevision, e.Told = revision, max(step, e.Told)
	}
}

func (j *Joiner) add(h *Hit, now event.Time) *entry {
	for (j.hitBytes+hitCost+maxFound*sightingBytes > j.cfg.HitBytes) && len(j.age) > 0 {
		j.evict()
	}
	e := &entry{Hit: *h, born: now, src: flat(h.Src), dst: flat(h.Dst)}
	e.Name, e.CommunityID, e.Host = strings.Clone(h.Name), strings.Clone(h.CommunityID), strings.Clone(brief(h.Host))
	if h.Time > now.Add(-j.cfg.Recall) {
		e.due = now.Add(j.cfg.Wait)
		j.push(e)
	}
	e.keys[0] = j.keys.flow(h.Proto, e.dst)
	if h.Name != "" {
		e.keys[1] = j.keys.question(h.Name)
	}
	if h.CommunityID != "" {
		e.keys[2] = j.keys.community(h.CommunityID)
	}
	for _, k := range e.keys {
		if k != 0 {
			list := j.byKey[k]
			i, _ := slices.BinarySearchFunc(list, e.Time, func(x *entry, t event.Time) int { return cmp.Compare(x.Time, t) })
			j.byKey[k] = slices.Insert(list, i, e)
		}
	}
	client := h.Src.Addr()
	j.byClient[client] = append(j.byClient[client], e)
	if slices.ContainsFunc(j.cfg.NAT, func(n NAT) bool { return n.Outside.Contains(client) }) {
		j.natted = append(j.natted, e)
	}
	j.hits[h.ID] = e
	j.age = append(j.age, e)
	j.hitBytes += hitCost
	return e
}

// evict forgets the hit that came first.
func (j *Joiner) evict() {
	e := j.age[0]
	j.age[0] = nil
	j.age = j.age[1:]
	e.gone = true
	j.stats.HitsEvicted++
	j.hitBytes -= hitCost + int64(len(e.found))*sightingBytes
	delete(j.hits, e.ID)
	drop := func(x *entry) bool { return x == e }
	for _, k := range e.keys {
		if list := slices.DeleteFunc(j.byKey[k], drop); len(list) > 0 {
			j.byKey[k] = list
		} else {
			delete(j.byKey, k)
		}
	}
	client := e.Src.Addr()
	if list := slices.DeleteFunc(j.byClient[client], drop); len(list) > 0 {
		j.byClient[client] = list
	} else {
		delete(j.byClient, client)
	}
	j.natted = slices.DeleteFunc(j.natted, drop)
}

// ObserveRecord takes a record that was received at now, and appends to dst what is found. Ref is the
// caller's, for reading the record again. Nothing in r is kept.
func (j *Joiner) ObserveRecord(dst []Finding, r *Record, ref uint64, now event.Time) []Finding {
	j.stats.Observed++
	n, ok := j.hosts.number(r.HostID, r.Host)
	if !ok {
		return dst
	}
	if r.Kind == Host {
		return j.hear(dst, n, r, now)
	}
	s := j.sighting(r, n, ref)
	if a := r.Local.Addr(); a.IsValid() && j.hosts.list[n].known && !a.IsLoopback() && !j.hosts.holds(n, a, r.Time) {
		j.stats.Foreign++ // its host may still say that it has the address: that is weighed with the hit
	}
	j.ring.add(&s)
	return j.offer(dst, &s, now)
}

// Recall is ObserveRecord for a record that came before and that Wants asked for.
func (j *Joiner) Recall(dst []Finding, r *Record, ref uint64, now event.Time) []Finding {
	n, ok := j.hosts.number(r.HostID, r.Host)
	if !ok || r.Kind == Host {
		return dst
	}
	s := j.sighting(r, n, ref)
	return j.offer(dst, &s, now)
}

func (j *Joiner) sighting(r *Record, host uint32, ref uint64) sighting {
	return sighting{
		key: j.keys.of(r), ref: ref, time: r.Time, start: r.Process.Start, local: flat(r.Local), remote: flat(r.Remote), host: host,
		pid: r.Process.PID, kind: r.Kind, proto: r.Proto, named: r.Kind == Connect && !(r.Remote.Addr().IsValid() && r.Remote.Port() != 0),
	}
}

// offer gives a record to the hits that it may explain.
func (j *Joiner) offer(dst []Finding, s *sighting, now event.Time) []Finding {
	list := j.byKey[s.key]
	if len(list) == 0 {
		return dst
	}
	// A lookup is older than its connection by up to what explains it; those lists are short.
	from := 0
	if s.kind == Connect {
		from, _ = slices.BinarySearchFunc(list, s.time.Add(-j.cfg.Window), func(x *entry, t event.Time) int { return cmp.Compare(x.Time, t) })
	}
	for _, e := range list[from:] {
		if s.kind == Connect && e.Time > s.time.Add(j.cfg.Window) {
			break
		}
		if j.take(e, s) {
			dst = j.weigh(dst, e, now)
		}
	}
	return dst
}

// scan gives a hit the records in memory that may explain it.
func (j *Joiner) scan(e *entry) {
	for _, k := range e.keys {
		if k != 0 && !j.ring.find(k, func(s *sighting) { j.take(e, s) }) {
			j.crowd(e)
		}
	}
}

func (j *Joiner) crowd(e *entry) {
	if !e.full {
		e.full = true
		j.stats.Crowded++
	}
}

// take keeps a record with a hit when it may explain it, and reports whether that is news.
func (j *Joiner) take(e *entry, s *sighting) bool {
	if !j.fits(e, s) {
		return false
	}
	order := func(a, b sighting) int {
		return cmp.Or(cmp.Compare(a.offset(e).Abs(), b.offset(e).Abs()), cmp.Compare(a.time, b.time),
			strings.Compare(j.hosts.list[a.host].id, j.hosts.list[b.host].id), cmp.Compare(a.pid, b.pid), cmp.Compare(a.start, b.start),
			cmp.Compare(a.kind, b.kind), slices.Compare(a.local.addr[:], b.local.addr[:]), cmp.Compare(a.local.port, b.local.port),
			cmp.Compare(a.remote.port, b.remote.port)) // 0 when a Community ID stands for the sockets
	}
	i, same := slices.BinarySearchFunc(e.found, *s, order)
	switch {
	case same:
		e.found[i].ref = min(e.found[i].ref, s.ref) // sent twice
		return false
	case i == maxFound:
		j.crowd(e)
		return false
	case len(e.found) == maxFound:
		j.crowd(e)
		e.found = e.found[:maxFound-1]
	default:
		j.hitBytes += sightingBytes
	}
	e.found = slices.Insert(e.found, i, *s)
	return true
}

// offset is how much later a record says it was than the sensor saw what it may explain.
func (s *sighting) offset(e *entry) time.Duration {
	if s.kind == Lookup {
		return s.time.Sub(e.LookupTime)
	}
	return s.time.Sub(e.Time)
}

// fits reports whether a record may explain a hit, whatever else is known: by what it names, by
// time, and by its host.
func (j *Joiner) fits(e *entry, s *sighting) bool {
	if s.offset(e).Abs() > j.cfg.Window {
		return false
	}
	switch {
	case s.kind == Lookup: // the key is the name's
	case s.named:
		if s.key != e.keys[2] {
			return false
		}
	case s.remote != e.dst || s.proto != e.Proto:
		return false
	}
	return s.local.addr == e.src.addr || j.claims(s.host, e)
}

// claims reports whether a host says that it had the client's address, or one that stands behind it.
func (j *Joiner) claims(host uint32, e *entry) bool {
	client := e.Src.Addr()
	if j.hosts.holds(host, client, e.Time) {
		return true
	}
	return slices.ContainsFunc(j.cfg.NAT, func(n NAT) bool {
		switch {
		case !n.covers(client, e.Time):
			return false
		case n.oneToOne():
			return j.hosts.holds(host, n.inside(client), e.Time)
		}
		return j.hosts.holdsIn(host, n.Inside, e.Time)
	})
}

// hear takes a host's word on itself: hits of its addresses may have another answer now.
func (j *Joiner) hear(dst []Finding, n uint32, r *Record, now event.Time) []Finding {
	fresh := slices.DeleteFunc(j.clients(r.About.Addresses), func(e *entry) bool { return j.claims(n, e) })
	j.hosts.hear(n, r)
	for _, e := range fresh {
		if j.claims(n, e) {
			j.scan(e)
			j.want(e, n)
		}
	}
	for _, e := range j.clients(j.hosts.list[n].addresses) {
		dst = j.weigh(dst, e, now)
	}
	return dst
}

// clients returns the hits whose client may be a host with these addresses.
func (j *Joiner) clients(addresses []netip.Addr) (list []*entry) {
	for _, a := range addresses {
		list = append(list, j.byClient[a]...)
	}
	for i := range j.cfg.NAT {
		n := &j.cfg.NAT[i]
		if !slices.ContainsFunc(addresses, n.Inside.Contains) {
			continue
		}
		for _, e := range j.natted {
			if n.Outside.Contains(e.Src.Addr()) {
				list = append(list, e)
			}
		}
	}
	return list
}

// want asks for what a host said around a hit, unless it is in memory, or cannot say more.
func (j *Joiner) want(e *entry, host uint32) {
	if e.Told%stepNamed >= classExact*stepClass || e.Time.Add(-j.cfg.Window) >= j.since() || len(j.wants) >= maxAnnounce {
		return
	}
	j.wants = append(j.wants, Want{j.hosts.list[host].id, e.Time.Add(-j.cfg.Window)})
}

// since returns from when on all records are in memory.
func (j *Joiner) since() event.Time {
	if len(j.marks) == 0 {
		return 1<<63 - 1
	}
	return j.marks[0].now
}

// Advance tells the time, and appends to dst what waited for it. It is to be called at least every
// second, and before anything is observed.
func (j *Joiner) Advance(dst []Finding, now event.Time) []Finding {
	oldest := j.ring.oldest()
	for len(j.marks) > 1 && j.marks[0].ordinal < oldest {
		j.marks = j.marks[1:]
	}
	if n := len(j.marks); n == 0 || now.Sub(j.marks[n-1].now) >= markEvery {
		j.marks = append(j.marks, mark{j.ring.next, now})
	}
	for len(j.due) > 0 && j.due[0].at <= now {
		if t := heap.Pop(&j.due).(turn); !t.e.gone && t.e.due == t.at {
			dst = j.weigh(dst, t.e, now)
		}
	}
	if now.Sub(j.pruned) >= pruneEvery {
		j.pruned = now
		j.hosts.prune(now.Add(-MaxAge))
	}
	return dst
}

// push makes Advance look at a hit when it is due.
func (j *Joiner) push(e *entry) { heap.Push(&j.due, turn{e.due, e}) }

// turn is when to look at a hit; one that was moved since has another.
type turn struct {
	at event.Time
	e  *entry
}

// waiting is a heap of turns.
type waiting []turn

// Len is heap.Interface, as are the methods below.
func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, k int) bool { return w[i].at < w[k].at }
func (w waiting) Swap(i, k int)      { w[i], w[k] = w[k], w[i] }

// Push appends a turn.
func (w *waiting) Push(x any) { *w = append(*w, x.(turn)) }

// Pop takes the last turn off.
func (w *waiting) Pop() any {
	old := *w
	t := old[len(old)-1]
	old[len(old)-1] = turn{}
	*w = old[:len(old)-1]
	return t
}
