package bus

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

func numberedRecord(n int) *attribute.Record {
	return &attribute.Record{
		ID: fmt.Sprintf("r%d", n), HostID: "host-1", Source: "ebpf", Time: event.TimeOf(time.Now()), Proto: event.TCP,
		Local: netip.MustParseAddrPort("10.0.0.7:49152"), Remote: netip.MustParseAddrPort("198.51.100.23:10198"),
		Process: attribute.Process{PID: uint32(n), Name: "curl"},
	}
}

// TestEndpointStored: records are in the stream, under the host's subjects, once each although they
// are sent twice; those handed over and not yet sent go with the next process.
func TestEndpointStored(t *testing.T) {
	c := testConfig(t)
	b := open(t, c)
	want := numberedRecord(7)
	about := &attribute.Record{
		ID: "h", Kind: attribute.Host, HostID: "host-1", Source: "ebpf", Time: want.Time,
		About: &attribute.HostFacts{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, Interval: int64(time.Minute)},
	}
	for _, r := range []*attribute.Record{want, about, want} {
		if err := b.PublishEndpoint(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.PublishEndpointWait(t.Context(), about); err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	js, err := b.NewJetStream()
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), EndpointStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d messages in the stream, want 2", n)
	}
	for _, r := range []*attribute.Record{want, about} {
		subject := EndpointSubject(r.Kind, r.HostID)
		m, err := s.GetLastMsgForSubject(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		var got attribute.Record
		if err := got.Parse(m.Data); err != nil || !reflect.DeepEqual(&got, r) {
			t.Errorf("%s holds\n%+v (%v), want\n%+v", subject, got, err, *r)
		}
		if kind, host, ok := SplitEndpointSubject(m.Subject); !ok || kind != r.Kind.String() || host != r.HostID {
			t.Errorf("%s is split into %q and %q", m.Subject, kind, host)
		}
	}
	if err := b.PublishEndpoint(&attribute.Record{HostID: "a.b"}); err == nil {
		t.Error("a record that is none was taken")
	}
}
