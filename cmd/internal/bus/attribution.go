package bus

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// The statuses of an Attribution. The others are attribute.Matched, Ambiguous and Unmatched.
const (
	pending       = "pending"
	notConfigured = "not-configured"
)

// enrichedBase is what an enricher's revisions count in: the sensor's revision times it, and the step of
// what was found (attribute.Finding.Step). So the revision is above the sensor's, the same whoever
// publishes it, and higher when more is known.
const enrichedBase = 100_000

// EnrichedRevision returns the revision of what is found of a hit in a step, on the sensor's revision.
func EnrichedRevision(sensor, step uint32) uint32 {
	const most = (1<<32 - 1) / enrichedBase
	return min(sensor, most)*enrichedBase + min(step, enrichedBase-1)
}

// SplitRevision takes apart what EnrichedRevision returns; the step is 0 for a sensor's own revision.
func SplitRevision(revision uint32) (sensor, step uint32) {
	if revision < enrichedBase {
		return revision, 0
	}
	return revision / enrichedBase, revision % enrichedBase
}

// Attribution says whether an endpoint named the process behind the connection.
type Attribution struct {
	Status     string    `json:"status"`           // "pending", "matched", "ambiguous", "unmatched", "not-configured"
	Method     string    `json:"method,omitempty"` // as attribute.Method
	Confidence float64   `json:"confidence,omitempty"`
	Reason     string    `json:"reason"`
	Endpoint   *Endpoint `json:"endpoint,omitempty"`   // absent when no host, or more than one, is meant
	Process    *Process  `json:"process,omitempty"`    // when matched
	Candidates []Process `json:"candidates,omitempty"` // when ambiguous
	Processes  int       `json:"processes,omitempty"`  // that may be meant; there may be more than candidates
	Records    int       `json:"records,omitempty"`    // of endpoints that fit, the refused ones among them
	Refused    int       `json:"refused,omitempty"`    // of those, records of hosts that do not have the address
	SkewNS     *int64    `json:"skew_ns,omitempty"`    // the endpoint's clock against the sensor's
	Host       *Holder   `json:"host,omitempty"`       // by the sensor; absent when frames told nothing
}

// Endpoint is a host that speaks for itself.
type Endpoint struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

// Process is a process as its host names it. What its source did not know is left out.
type Process struct {
	Endpoint    Endpoint       `json:"endpoint"`
	Time        *time.Time     `json:"time,omitempty"` // of the record, by the endpoint's clock
	Source      string         `json:"source,omitempty"`
	Result      string         `json:"result,omitempty"` // of the call, as attribute.Result
	PID         uint32         `json:"pid,omitempty"`
	Start       *time.Time     `json:"start,omitempty"`
	Name        string         `json:"name,omitempty"`
	Executable  string         `json:"executable,omitempty"`
	SHA256      string         `json:"sha256,omitempty"`
	Args        []string       `json:"args,omitempty"`
	Dir         string         `json:"working_directory,omitempty"`
	UID         *uint32        `json:"uid,omitempty"`
	LoginUID    *uint32        `json:"login_uid,omitempty"` // absent also when it is not set
	User        string         `json:"user,omitempty"`
	Parent      *ParentProcess `json:"parent,omitempty"`
	ContainerID string         `json:"container_id,omitempty"`
	Container   string         `json:"container,omitempty"`
}

// ParentProcess is where a process came from.
type ParentProcess struct {
	PID        uint32     `json:"pid,omitempty"`
	Start      *time.Time `json:"start,omitempty"`
	Name       string     `json:"name,omitempty"`
	Executable string     `json:"executable,omitempty"`
}

// ECSProcess is ECS process.*.
type ECSProcess struct {
	PID        uint32         `json:"pid,omitempty"`
	Start      *time.Time     `json:"start,omitempty"`
	Name       string         `json:"name,omitempty"`
	Executable string         `json:"executable,omitempty"`
	Args       []string       `json:"args,omitempty"`
	Dir        string         `json:"working_directory,omitempty"`
	Hash       *Hash          `json:"hash,omitempty"`
	Parent     *ParentProcess `json:"parent,omitempty"`
}

// Hash is ECS process.hash.*.
type Hash struct {
	SHA256 string `json:"sha256"`
}

// User is ECS user.*.
type User struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// Container is ECS container.*.
type Container struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

const (
	maxArgs          = 32
	maxArgBytes      = 2048 // of all arguments of a process
	maxCandidateArgs = 256
)

// Attribute makes m the revision that holds what was found of its hit. Records are those of the candidates, in
// their order; nil stands for one that is gone from its stream. m has to be a sensor's own revision.
func (m *Message) Attribute(f *attribute.Finding, records []*attribute.Record) {
	a := Attribution{
		Status: string(f.Status), Method: string(f.Method), Confidence: f.Confidence, Reason: clean(f.Reason),
		Processes: f.Processes, Records: f.Records, Refused: f.Refused,
	}
	if f.HasSkew {
		ns := f.Skew.Nanoseconds()
		a.SkewNS = &ns
	}
	list := make([]Process, len(f.Candidates))
	for i := range f.Candidates {
		list[i] = processOf(&f.Candidates[i], records[i])
	}
	if f.HostID != "" {
		a.Endpoint = &Endpoint{ID: clean(f.HostID)}
		for i := range list {
			if list[i].Endpoint.ID == a.Endpoint.ID && list[i].Endpoint.Name != "" {
				a.Endpoint.Name = list[i].Endpoint.Name
			}
		}
	}
	if f.Status == attribute.Matched {
		a.Process = &list[0]
	} else {
		for i := range list {
			list[i].Args = cleanArgs(list[i].Args, maxCandidateArgs)
			list[i].Dir = ""
		}
		a.Candidates = list
	}
	m.attribute(&a, f.Step)
}

// Reattribute makes m, a newer revision of the sensor, the revision that holds what was found with an older one.
func (m *Message) Reattribute(old *Message) {
	_, step := SplitRevision(old.Portolan.Revision)
	a := old.Portolan.Attribution
	m.attribute(&a, step)
}

// attribute sets what depends on the attribution. What the sensor itself said of the host stays.
func (m *Message) attribute(a *Attribution, step uint32) {
	p := &m.Portolan
	host := p.Attribution.Host
	p.Attribution = *a
	p.Attribution.Host = host
	p.Revision = EnrichedRevision(p.Revision, step)
	if p.State != stateRetracted {
		p.State = stateEnriched
	}
	m.Event.ID = MessageID(p.HitID, p.Revision)
	m.name()
	m.fit()
}

// fit leaves arguments out, and then candidates, the last ones first, until the message is not too large.
func (m *Message) fit() {
	a := &m.Portolan.Attribution
	tooLarge := func() bool {
		_, err := m.Encode()
		return err != nil
	}
	if !tooLarge() {
		return
	}
	if a.Process != nil {
		a.Process.Args = nil
	}
	for i := range a.Candidates {
		a.Candidates[i].Args = nil
	}
	for m.name(); len(a.Candidates) > 0 && tooLarge(); {
		a.Candidates = a.Candidates[:len(a.Candidates)-1]
	}
}

// name sets the members of ECS that say who it was.
func (m *Message) name() {
	a := &m.Portolan.Attribution
	m.Process, m.User, m.Container, m.Host = nil, nil, nil, nil
	if a.Endpoint != nil {
		m.Host = &Endpoint{a.Endpoint.ID, a.Endpoint.Name}
	}
	q := a.Process
	if q == nil {
		return
	}
	m.Process = &ECSProcess{
		PID: q.PID, Start: q.Start, Name: q.Name, Executable: q.Executable, Args: q.Args, Dir: q.Dir, Parent: q.Parent,
	}
	if q.SHA256 != "" {
		m.Process.Hash = &Hash{q.SHA256}
	}
	if q.UID != nil || q.User != "" {
		m.User = &User{Name: q.User}
		if q.UID != nil {
			m.User.ID = strconv.FormatUint(uint64(*q.UID), 10)
		}
	}
	if q.ContainerID != "" || q.Container != "" {
		m.Container = &Container{q.ContainerID, q.Container}
	}
}

func processOf(c *attribute.Candidate, r *attribute.Record) Process {
	if r == nil {
		return Process{Endpoint: Endpoint{ID: clean(c.HostID)}, Time: momentOf(c.Time), PID: c.PID, Start: momentOf(c.Start)}
	}
	q := &r.Process
	p := Process{
		Endpoint: Endpoint{ID: clean(r.HostID), Name: clean(r.Host)}, Time: momentOf(r.Time), Source: clean(r.Source), Result: string(r.Result),
		PID: q.PID, Start: momentOf(q.Start), Name: clean(q.Name), Executable: clean(q.Executable), SHA256: clean(q.SHA256),
		Args: cleanArgs(q.Args, maxArgBytes), Dir: clean(q.Dir), User: clean(q.User),
		ContainerID: clean(q.ContainerID), Container: clean(q.Container),
	}
	if q.HasUID {
		uid := q.UID
		p.UID = &uid
	}
	if q.HasLoginUID && q.LoginUID != 1<<32-1 {
		uid := q.LoginUID
		p.LoginUID = &uid
	}
	if q.Parent != (attribute.Parent{}) {
		p.Parent = &ParentProcess{q.Parent.PID, momentOf(q.Parent.Start), clean(q.Parent.Name), clean(q.Parent.Executable)}
	}
	return p
}

// momentOf returns t for JSON, nil for the time that is not known.
func momentOf(t event.Time) *time.Time {
	if t == 0 {
		return nil
	}
	u := t.UTC()
	return &u
}

// cleanArgs returns the first arguments that have most bytes together.
func cleanArgs(args []string, most int) (list []string) {
	for _, s := range args[:min(len(args), maxArgs)] {
		s = clean(s)
		if most -= len(s); most < 0 {
			break
		}
		list = append(list, s)
	}
	return list
}

// processText says who a process is, such as "updater (pid 4242, /opt/tool/updater), user build (1000)".
func (p *Process) text() string {
	var b strings.Builder
	name := clean(p.Name)
	if name == "" {
		name = "a process"
	}
	b.WriteString(name)
	var in []string
	if p.PID != 0 {
		in = append(in, "pid "+strconv.FormatUint(uint64(p.PID), 10))
	}
	if p.Executable != "" {
		in = append(in, clean(p.Executable))
	}
	if len(in) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(in, ", "))
	}
	switch {
	case p.User != "" && p.UID != nil:
		fmt.Fprintf(&b, ", user %s (%d)", clean(p.User), *p.UID)
	case p.User != "":
		fmt.Fprintf(&b, ", user %s", clean(p.User))
	case p.UID != nil:
		fmt.Fprintf(&b, ", user %d", *p.UID)
	}
	if p.LoginUID != nil && (p.UID == nil || *p.LoginUID != *p.UID) {
		fmt.Fprintf(&b, ", logged in as %d", *p.LoginUID)
	}
	if q := p.Parent; q != nil {
		parent := clean(q.Name)
		if parent == "" {
			parent = clean(q.Executable)
		}
		fmt.Fprintf(&b, ", started by %s (pid %d)", parent, q.PID)
	}
	return b.String()
}

// AttributionRow is one line that people read of an attribution.
type AttributionRow struct{ Label, Text string }

// Rows says for people who made the connection, how sure that is and why. Nothing in it can reach a
// terminal unescaped.
func (a *Attribution) Rows() (rows []AttributionRow) {
	add := func(label, format string, args ...any) {
		rows = append(rows, AttributionRow{label, fmt.Sprintf(format, args...)})
	}
	one := func(label string, p *Process) {
		add(label, "%s", p.text())
		if p.ContainerID != "" || p.Container != "" {
			add("container", "%s", strings.TrimSpace(clean(p.Container)+" "+cut(clean(p.ContainerID), 20)))
		}
		if p.SHA256 != "" {
			add("sha256", "%s", clean(p.SHA256))
		}
	}
	if a.Process != nil {
		one("process", a.Process)
	}
	for i := range a.Candidates {
		one("perhaps", &a.Candidates[i])
	}
	if more := a.Processes - len(a.Candidates); a.Process == nil && more > 0 && len(a.Candidates) > 0 {
		add("perhaps", "%d more", more)
	}
	how := clean(a.Status)
	if a.Method != "" {
		how += " by " + clean(a.Method)
	}
	if a.Confidence > 0 {
		how += fmt.Sprintf(", %.0f %% sure", 100*unit(a.Confidence))
	}
	if e := a.Endpoint; e != nil {
		name := clean(e.Name)
		if name == "" {
			name = clean(e.ID)
		}
		how += ", on " + name
	}
	how += ": " + clean(a.Reason)
	if a.Refused > 0 {
		how += fmt.Sprintf("; %s refused, of hosts that do not have the address", plural(uint64(a.Refused), "record"))
	}
	add("who", "%s", how)
	return rows
}
