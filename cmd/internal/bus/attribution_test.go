package bus

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// testRecord is what the endpoint of halfSwap's client says of the connection.
func testRecord(pid uint32) *attribute.Record {
	h := halfSwap()
	return &attribute.Record{
		ID: "c1", Kind: attribute.Connect, HostID: "4c4c4544003510538034b4c04f4d3532", Host: "build-7.example.net", Source: "ebpf",
		Time: start.Add(2 * time.Millisecond), Proto: event.TCP, Local: h.Connection.Src, Remote: h.Connection.Dst, Result: attribute.Connected,
		Process: attribute.Process{
			PID: pid, Start: start.Add(-90 * time.Second), Name: "updater", Executable: "/opt/tool/updater", SHA256: strings.Repeat("0123456789abcdef", 4),
			Args: []string{"/opt/tool/updater", "--quiet"}, Dir: "/", UID: 1000, HasUID: true, LoginUID: 1001, HasLoginUID: true, User: "build",
			Parent:      attribute.Parent{PID: 4200, Start: start.Add(-time.Hour), Name: "sh", Executable: "/usr/bin/dash"},
			ContainerID: strings.Repeat("ab", 32), Container: "builder",
		},
	}
}

func testFinding(status attribute.Status, pids ...uint32) *attribute.Finding {
	f := &attribute.Finding{
		Revision: 1, Step: 5003, Status: status, Method: attribute.ByTuple, Confidence: 0.99, Reason: "one process names the connection's addresses and ports",
		HostID: testRecord(0).HostID, Processes: len(pids), Records: len(pids), Skew: 2 * time.Millisecond, HasSkew: true,
	}
	for _, pid := range pids {
		f.Candidates = append(f.Candidates, attribute.Candidate{HostID: f.HostID, PID: pid, Start: start.Add(-time.Hour), Time: start})
	}
	return f
}

// attributed returns the messages in testdata/hit that an enricher publishes, by file name.
func attributed() map[string]*Message {
	matched := NewMessage(halfSwap(), testContext())
	matched.Attribute(testFinding(attribute.Matched, 4242), []*attribute.Record{testRecord(4242)})

	f := testFinding(attribute.Ambiguous, 8, 9)
	f.Method, f.Confidence, f.Step, f.Refused = attribute.ByDestination, 0.4, 3004, 1
	f.Reason = "2 processes connected there at the time, and records have no source port that fits"
	ambiguous := NewMessage(mulAdd(), testContext())
	ambiguous.Attribute(f, []*attribute.Record{testRecord(8), nil})

	f = &attribute.Finding{Step: 1041, Status: attribute.Unmatched, Reason: "no agent: no endpoint says that it has the address"}
	unmatched := NewMessage(mulAdd(), testContext())
	unmatched.Attribute(f, nil)

	c := testContext()
	c.Attributed = true
	return map[string]*Message{"matched": matched, "ambiguous": ambiguous, "unmatched": unmatched, "pending": NewMessage(mulAdd(), c)}
}

// TestAttributedMessages: what an enricher publishes validates, reads back as it was, and says who it was.
func TestAttributedMessages(t *testing.T) {
	s := schema(t)
	for name, m := range attributed() {
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := m.WriteText(&text, false); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", indent(t, b))
		golden(t, name+".txt", text.Bytes())
		if err := validate(s, b); err != nil {
			t.Errorf("%s: the schema refuses it: %v", name, err)
		}
		back, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := back.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: decoded and encoded again (%v):\n%s\nwant\n%s", name, err, again, b)
		}
	}
}

// TestRevisions: an enricher's revision is above every one of the sensor's before, and tells both parts.
func TestRevisions(t *testing.T) {
	for _, tt := range []struct{ sensor, step, want uint32 }{
		{1, 1, 100_001}, {1, attribute.MaxStep, 115_999}, {2, 5003, 205_003}, {1 << 31, 7, 4_294_900_007},
	} {
		if got := EnrichedRevision(tt.sensor, tt.step); got != tt.want {
			t.Errorf("revision %d, step %d: %d, want %d", tt.sensor, tt.step, got, tt.want)
		}
	}
	if sensor, step := SplitRevision(205_003); sensor != 2 || step != 5003 {
		t.Errorf("205003 is revision %d, step %d", sensor, step)
	}
	if sensor, step := SplitRevision(7); sensor != 7 || step != 0 {
		t.Errorf("7 is revision %d, step %d", sensor, step)
	}
	m, taken := attributed()["matched"], halfSwap()
	if m.Portolan.Revision != 105_003 || m.Event.ID != m.Portolan.HitID+".105003" || !strings.HasPrefix(m.Subject(), "portolan.v1.enriched.") {
		t.Errorf("revision %d with id %s under %s", m.Portolan.Revision, m.Event.ID, m.Subject())
	}
	taken.Revision, taken.State = 2, 2
	again := NewMessage(taken, testContext())
	again.Reattribute(m)
	if again.Portolan.Revision != 205_003 || again.Portolan.State != stateRetracted || again.Process == nil || again.Process.PID != 4242 ||
		!strings.HasPrefix(again.Subject(), "portolan.v1.enriched.") {
		t.Errorf("taken back: revision %d, %s, under %s", again.Portolan.Revision, again.Portolan.State, again.Subject())
	}
}

// TestAttributionIsBounded: what hosts say neither bursts a message nor reaches a terminal as it is.
func TestAttributionIsBounded(t *testing.T) {
	long := strings.Repeat("\x1b[31m\"\\é\xff", 4<<10)
	r := testRecord(7)
	p := &r.Process
	for _, s := range []*string{&r.Host, &r.Source, &p.Name, &p.Executable, &p.Dir, &p.User, &p.ContainerID, &p.Container, &p.Parent.Name, &p.Parent.Executable} {
		*s = long
	}
	p.Args = slices.Repeat([]string{long}, 1000)
	for _, n := range []int{1, 8} {
		pids := make([]uint32, n)
		status := attribute.Matched
		if n > 1 {
			status = attribute.Ambiguous
		}
		m := NewMessage(hostile(), hostileContext())
		m.Source.IP, m.Destination.IP = netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("198.51.100.23")
		m.Attribute(testFinding(status, pids...), slices.Repeat([]*attribute.Record{r}, n))
		if _, err := m.Encode(); err != nil {
			t.Errorf("%d candidates: %v", n, err)
		}
		var text bytes.Buffer
		if err := m.WriteText(&text, false); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(text.String(), 0x1b) || !utf8.Valid(text.Bytes()) {
			t.Errorf("%d candidates reach the terminal as %q", n, text.String())
		}
	}
}
