package correlate

import (
	"cmp"
	"slices"

	"portolan/correlate/evidence"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// Bounds of what one client's evidence holds.
const (
	maxProcesses = 64 // hypotheses that ever predicted a trial of the client
	maxTrials    = 256
	maxOperands  = 32 // distinct operands counted for one hypothesis
)

// support is the evidence about one client: what has been settled, and the hits given
// out that may still change.
type support struct {
	processes []process
	predicted []trial // trials that a hypothesis predicted; made again they are no new ones
	open      []Hit   // as last given out, until the connection is settled; retracted ones too, since they may come back
}

// process is the evidence for one hypothesis.
type process struct {
	evidence.Process
	key      uint64 // found.key
	trials   int
	operands [][16]byte
}

// trial is what makes a trial distinct: the destination, and for formulas the port.
type trial struct {
	addr [16]byte
	port uint16
}

func trialOf(x *pending, k Kind) trial {
	if k == Address {
		return trial{addr: x.addr}
	}
	return trial{x.addr, x.dport}
}

// ledger is a client's evidence at one point of its time line: the settled state itself,
// or a copy that runs ahead through what is pending.
type ledger struct {
	trials     [hypothesis.NumMixtures]uint32
	recent     [trialMemory]uint32
	recentNext uint8
	support    *support
}

// weighed is what a predicted trial is worth.
type weighed struct {
	eValue  float64
	mixture hypothesis.Mixture // the one with the greatest e-value
	ordinal uint32             // of the trial in that mixture
	shares  []share            // by hypothesis, heaviest first
}

type share struct {
	found
	eValue   float64 // prior weight included
	trials   int
	operands int
}

// miss enters a trial that no hypothesis predicts.
func (l *ledger) miss(fingerprint uint32, mixtures uint8) {
	if slices.Contains(l.recent[:], fingerprint) {
		return
	}
	l.recent[l.recentNext] = fingerprint
	l.recentNext = (l.recentNext + 1) % trialMemory
	l.count(mixtures)
}

func (l *ledger) count(mixtures uint8) {
	for m := range l.trials {
		l.trials[m] += uint32(mixtures >> m & 1)
	}
}

// match enters a trial that hypotheses predict and weighs it; ok is false when it was made before.
func (l *ledger) match(own *hypothesis.Programs, t trial, v *verdict, all []found) (w weighed, ok bool) {
	if l.support == nil {
		l.support = &support{}
	}
	if slices.Contains(l.support.predicted, t) {
		return w, false
	}
	if len(l.support.predicted) == maxTrials {
		l.support.predicted = slices.Delete(l.support.predicted, 0, 1)
	}
	l.support.predicted = append(l.support.predicted, t)
	l.count(v.trials())

	var sum [hypothesis.NumMixtures]float64
	for i := range all {
		f := &all[i]
		times := 0 // predictions of this hypothesis that give the same destination
		first := true
		for j := range all {
			if all[j].key() == f.key() {
				times += max(all[j].times, 1)
				first = first && j >= i
			}
		}
		if !first {
			continue
		}
		of := float64(v.competing(f)) * float64(max(f.keys, 1))
		p := l.support.process(f.key())
		e := p.Match(uint64(l.trials[f.mixture]), f.factor()*float64(times)/(of*v.q))
		p.trials++
		if !slices.Contains(p.operands, f.operand) && len(p.operands) < maxOperands {
			p.operands = append(p.operands, f.operand)
		}
		e *= weightOf(own, f)
		sum[f.mixture] += e
		w.shares = append(w.shares, share{*f, e, p.trials, len(p.operands)})
	}
	for m, e := range sum {
		if e > w.eValue {
			w.eValue, w.mixture, w.ordinal = e, hypothesis.Mixture(m), l.trials[m]
		}
	}
	w.shares = slices.DeleteFunc(w.shares, func(s share) bool { return s.mixture != w.mixture })
	slices.SortStableFunc(w.shares, func(a, b share) int {
		switch {
		case a.eValue > b.eValue:
			return -1
		case a.eValue < b.eValue:
			return 1
		}
		return cmp.Compare(a.key(), b.key())
	})
	return w, true
}

// process returns the evidence for the hypothesis with the given key, the one longest
// unused making room when there are too many.
func (p *support) process(key uint64) *process {
	for i := range p.processes {
		if p.processes[i].key == key {
			return &p.processes[i]
		}
	}
	if len(p.processes) == maxProcesses {
		p.processes = slices.Delete(p.processes, 0, 1)
	}
	p.processes = append(p.processes, process{key: key})
	return &p.processes[len(p.processes)-1]
}

// program returns the operator's hypothesis that f is.
func program(own *hypothesis.Programs, f *found) *hypothesis.Program {
	if f.mixture == hypothesis.CustomPort {
		return own.Port[f.which]
	}
	return own.Address[f.which]
}

func weightOf(own *hypothesis.Programs, f *found) float64 {
	switch f.sort {
	case sortCustom:
		return program(own, f).Weight()
	case sortOctet:
		return hypothesis.OctetWeight()
	case sortPair:
		return hypothesis.Pair(f.which).Weight()
	case sortLearned:
		return hypothesis.Learned(f.which).Weight()
	case sortOffset:
		return hypothesis.Offset(f.which).Weight()
	}
	switch f.mixture {
	case hypothesis.Port4:
		return hypothesis.Formula(f.which).Weight()
	case hypothesis.Port6:
		return hypothesis.Group(f.which).Weight()
	}
	return hypothesis.Transform(f.which).Weight(f.via)
}

// ledger returns the settled evidence of client n; its support is nil when no trial was ever predicted.
func (s *shard) ledger(n uint32, c *client) ledger {
	past := s.past(c)
	l := ledger{trials: past.trials, recent: past.recent, recentNext: past.recentNext}
	if c.evidence {
		l.support = s.real.support[n]
	}
	return l
}

// ahead returns a copy of l that can be run ahead without changing it.
func (l ledger) ahead() ledger {
	if l.support == nil {
		return l
	}
	p := &support{processes: slices.Clone(l.support.processes), predicted: slices.Clone(l.support.predicted)}
	for i := range p.processes {
		p.processes[i].operands = slices.Clone(p.processes[i].operands)
	}
	l.support = p
	return l
}

// store makes l the settled evidence of client n.
func (s *shard) store(n uint32, c *client, l ledger) {
	l.write(s.history(n, c))
	s.storeSupport(n, c, l.support)
}

// write enters what l counts into a history.
func (l *ledger) write(h *history) {
	h.trials, h.recent, h.recentNext = l.trials, l.recent, l.recentNext
}

func (s *shard) storeSupport(n uint32, c *client, p *support) {
	if c.evidence || len(p.predicted) == 0 && len(p.open) == 0 {
		return
	}
	if len(s.real.support) >= maxSupport {
		for victim := range s.real.support { // any: reaching this bound takes a flood of matches
			s.client(victim).evidence = false
			delete(s.real.support, victim)
			s.stats.EvictedEvidence++
			break
		}
	}
	s.real.support[n] = p
	c.evidence = true
}

// enter records in x how judge has just judged it.
func (s *shard) enter(x *pending, v *verdict) {
	x.class, x.trials, x.by = v.class, v.trials(), v.by
	if len(s.chance.found) > 0 {
		x.trials |= byChance
	}
}

// byChance marks in pending.trials what scrambled answers predict.
const byChance = 1 << 7

const portMixtures = 1<<hypothesis.Port4 | 1<<hypothesis.Port6 | 1<<hypothesis.CustomPort

// takeUp settles the connection x, which nothing pending comes before.
func (s *shard) takeUp(dst []Hit, n uint32, c *client, x *pending) []Hit {
	c.conns++
	zone := s.in(c.zone)
	zone.Connections++
	told := x.class == explained || x.trials&portMixtures != 0
	if told {
		c.explained++
		zone.Explained++
		s.stats.Explained++
		s.contact(c, x)
	}
	l := s.learnerOf(c)
	if l != nil && told {
		l.pass(x.time, -walkStep)
	}
	switch {
	case x.class == unjudged:
		s.stats.Unjudged++
		return dst
	case x.class == explained:
		s.stats.ExplainedBy[x.by]++
		return dst
	case told:
		s.stats.PortTrials++
	default:
		s.stats.AddressTrials++
	}
	t := trialOf(x, kindOf(x.trials))
	print := s.seeds.fingerprint(&t)
	led := s.ledger(n, c)
	if x.class == tried && slices.Contains(led.recent[:], print) {
		return dst // made before: nothing to learn
	}
	if told && s.real.scans(l, x) {
		s.stats.Gated++
		return dst
	}
	h := s.history(n, c)
	if l == nil {
		h.learner = s.newLearner(&s.real, n, h)
		if l = s.real.learner(h.learner); l == nil { // no memory at all: nothing is learned from this trial
			s.stats.Refused++
			s.spare = learner{gated: true}
			l = &s.spare
		}
	}
	if !told && l.pass(x.time, walkStep) {
		s.stats.Gated++
	}
	if l.gated && x.class == tried && x.trials&byChance == 0 {
		led.miss(print, x.trials) // nothing predicts it, and nothing is learned from it: no need to look again
		led.write(h)
		return dst
	}
	v := s.judge(c, nil, x)
	v.quiet = v.quiet || l == &s.spare
	used := s.weighPort(c, l, x, &v)
	s.teach(&s.tries, &s.real, l, x, &v)
	if v.class == tried {
		led.miss(print, x.trials)
		led.write(h)
		dst = s.lead(dst, c, l, x, &v, used)
		s.note(c, l, x, &v, 0)
		s.decoyTakeUp(n, c, x, v, l)
		return dst
	}
	w, ok := led.match(&s.own, t, &v, s.tries.found)
	s.store(n, c, led)
	if level := s.level(&w); ok && level != None {
		h := s.hit(c, nil, x, &v, &w)
		h.ID, h.Level, h.State, h.Revision = idOf(c.zone, client4(c), x.proto, destination(x)), level, Final, 1
		h.Coverage.Gated = l.gated
		if open := slices.IndexFunc(led.support.open, func(o Hit) bool { return o.ID == h.ID }); open >= 0 {
			h.Revision = led.support.open[open].Revision + 1
			led.support.open = slices.Delete(led.support.open, open, open+1)
		}
		s.stats.Final[level]++
		dst = append(dst, h)
		if level == Alert {
			s.confirmed(&w, x.time)
		}
	}
	if ok {
		reach(&s.stats.Reached, w.eValue)
		s.note(c, l, x, &v, w.eValue)
		s.decoyTakeUp(n, c, x, v, l)
	}
	return dst
}

// contact marks the answers that x goes to, and those given together with them: the
// lookup served its purpose.
func (s *shard) contact(c *client, x *pending) {
	t := s.told(c)
	want := tagOf(kindAAAA, &x.addr) & tagAddress
	for i, a := range t.tags() {
		if a&tagAddress != want || a&tagContacted != 0 || kindOfTag(a) == kindRest || t.addr(i) != x.addr {
			continue
		}
		last, origin := t.last(i), t.origin(i)
		for j := 0; j < t.len; j = t.next(j) {
			if t.last(j) == last && t.origin(j) == origin {
				t.w[j] |= tagContacted
			}
		}
	}
}

// decoyTakeUp weighs what scrambled answers predict of the trial, with evidence of its own,
// and counts what chance reaches. It comes after the trial was entered for real.
func (s *shard) decoyTakeUp(n uint32, c *client, x *pending, v verdict, real *learner) {
	h := s.history(n, c)
	if h.decoy == 0 {
		if h.decoy = s.newLearner(&s.decoy, n, h); h.decoy == 0 {
			return
		}
	}
	l := s.decoy.learner(h.decoy)
	l.gated = real.gated
	if v.kind == Address && !v.again {
		s.decoyFresh()
	}
	s.teach(&s.chance, &s.decoy, l, x, &v)
	if len(s.chance.found) == 0 {
		return
	}
	s.confirm(&s.chance)
	led := ledger{trials: h.trials}
	if h.chance {
		led.support = s.decoy.support[n]
	}
	for m := range led.trials {
		led.trials[m] -= uint32(v.trials() >> m & 1) // match counts the trial again
	}
	w, ok := led.match(&s.own, trialOf(x, v.kind), &v, s.chance.found)
	if h != &s.nothing && (len(s.decoy.support) < maxSupport || h.chance) {
		s.decoy.support[n], h.chance = led.support, true
	}
	if ok {
		s.stats.Decoys[s.level(&w)]++
		reach(&s.stats.ReachedByDecoys, w.eValue)
	}
}

func kindOf(trials uint8) Kind {
	if trials&portMixtures != 0 {
		return Port
	}
	return Address
}

// level returns what a weighed trial comes to. One with fewer predicted trials behind it
// than Config.VolumeThreshold is no alert, however strong.
func (s *shard) level(w *weighed) Level {
	switch {
	case w.eValue >= s.cfg.Alert && w.shares[0].trials >= s.cfg.VolumeThreshold:
		return Alert
	case w.eValue >= s.cfg.Watch:
		return Watch
	}
	return None
}

// reconcile brings the provisional hits of client n in line with what is pending, and
// appends to dst what is new, changed or gone.
func (s *shard) reconcile(dst []Hit, n uint32, c *client) []Hit {
	settled := s.ledger(n, c)
	l := settled.ahead()
	if settled.support == nil {
		settled.support = &support{}
	}
	all := s.pending.of(&c.pending)
	var wanted []ID
	conns, explainedConns := c.conns, c.explained
	defer func() { c.conns, c.explained = conns, explainedConns }()
	for i := range all {
		x := &all[i]
		if x.kind != kindConn {
			continue
		}
		c.conns++
		if x.class == explained || x.class > explained && kindOf(x.trials) == Port {
			c.explained++
		}
		switch x.class {
		case tried:
			t := trialOf(x, kindOf(x.trials))
			l.miss(s.seeds.fingerprint(&t), x.trials)
		case predicted:
			known := s.learnerOf(c)
			if kindOf(x.trials) == Port && s.real.scans(known, x) {
				continue
			}
			v := s.judge(c, all[:i], x)
			s.weighPort(c, known, x, &v)
			w, ok := l.match(&s.own, trialOf(x, v.kind), &v, s.tries.found)
			level := s.level(&w)
			if !ok || level == None {
				continue
			}
			h := s.hit(c, all[:i], x, &v, &w)
			h.ID, h.Level, h.Revision = idOf(c.zone, client4(c), x.proto, destination(x)), level, 1
			wanted = append(wanted, h.ID)
			dst = s.show(dst, settled.support, h)
		}
	}
	for i := range settled.support.open {
		if o := &settled.support.open[i]; o.State != Retracted && !slices.Contains(wanted, o.ID) {
			o.State, o.Revision = Retracted, o.Revision+1
			s.stats.Retracted++
			dst = append(dst, *o)
		}
	}
	s.storeSupport(n, c, settled.support)
	return dst
}

// show gives out the provisional hit h unless it stands open already as it is.
func (s *shard) show(dst []Hit, p *support, h Hit) []Hit {
	for i := range p.open {
		o := &p.open[i]
		if o.ID != h.ID {
			continue
		}
		if o.State == Provisional && o.Level == h.Level && o.Calc.Hypothesis == h.Calc.Hypothesis && o.Calc.EValue == h.Calc.EValue &&
			o.Lookup.Time == h.Lookup.Time && o.Lookup.Answer == h.Lookup.Answer && o.Connection == h.Connection {
			return dst
		}
		h.Revision = o.Revision + 1
		*o = h
		s.stats.Revised++
		return append(dst, h)
	}
	p.open = append(p.open, h)
	s.stats.Provisional++
	return append(dst, h)
}

// prune forgets what is open of connections stamped before the given time, now that they
// are settled. A hit still provisional lost its answer to a bound meanwhile: it is taken back.
func (s *shard) prune(dst []Hit, p *support, before event.Time) []Hit {
	p.open = slices.DeleteFunc(p.open, func(h Hit) bool {
		if h.Connection.Time >= before {
			return false
		}
		if h.State == Provisional {
			h.State, h.Revision = Retracted, h.Revision+1
			s.stats.Retracted++
			dst = append(dst, h)
		}
		return true
	})
	return dst
}
