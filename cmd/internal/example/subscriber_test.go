package example_test

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/example"
	"portolan/correlate"
	"portolan/sensor/event"
)

// patience is how long a test waits for what has to come. What was on its way to a subscriber that
// stopped comes again after 30 s only.
const patience = 2 * time.Minute

func openBus(t testing.TB, dir string) *bus.Bus {
	c := bus.DefaultConfig()
	c.Name, c.StateDir, c.Timeout = "dmz-1", dir, patience
	b, err := bus.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func message(id byte, revision uint32, state correlate.State) *bus.Message {
	return bus.NewMessage(&correlate.Hit{
		ID: correlate.ID{id}, Revision: revision, State: state, Level: correlate.Alert, Client: netip.MustParseAddr("10.0.0.7"),
		Connection: event.Connection{
			Time: 1_700_000_000_000_000_000, Proto: event.TCP,
			Src: netip.MustParseAddrPort("10.0.0.7:49152"), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
		},
	}, bus.Context{Sensor: "dmz-1"})
}

func publish(t *testing.T, b *bus.Bus, list ...*bus.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, m := range list {
		if err := b.PublishWait(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.PublishCoverage(&bus.CoverageRecord{Schema: bus.CoverSchema, Sensor: "dmz-1", Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestFollow: a subscriber that is stopped and started again sees each revision once and finds no
// gap, over a restart of the sensor too.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	ledger := example.NewLedger()
	var mu sync.Mutex
	var got []string
	follow := func(b *bus.Bus, until int) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- example.Follow(ctx, b.Conn(), "soc", ledger, func(h *example.Hit) error {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprintf("%s.%d %s", h.Portolan.ID[:2], h.Portolan.Revision, h.Portolan.State))
				return nil
			})
		}()
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			n := len(got)
			mu.Unlock()
			missing, lost := ledger.Missing("dmz-1")
			if n == until && len(missing) == 0 {
				if lost != 0 {
					t.Errorf("%d lost, want 0", lost)
				}
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d revisions and missing %v, want %d and none", n, missing, until)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}

	b := openBus(t, dir)
	publish(t, b, message(1, 1, correlate.Provisional), message(2, 1, correlate.Provisional), message(1, 2, correlate.Final))
	follow(b, 3)
	publish(t, b, message(2, 2, correlate.Retracted), message(2, 2, correlate.Retracted)) // the same message twice
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openBus(t, dir)
	defer b.Close()
	publish(t, b, message(3, 1, correlate.Final))
	follow(b, 5)
	want := []string{"01.1 provisional", "02.1 provisional", "01.2 final", "02.2 retracted", "03.1 final"}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(got[3:]) // by hit and revision
	slices.Sort(want[3:])
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLedger(t *testing.T) {
	l := example.NewLedger()
	for _, n := range []uint64{1, 2, 5, 9} {
		l.Came("dmz-1", n, fmt.Sprint(n), 1)
	}
	check := func(want []example.Gap, wantLost uint64) {
		t.Helper()
		if missing, lost := l.Missing("dmz-1"); !reflect.DeepEqual(missing, want) || lost != wantLost {
			t.Errorf("missing %v and %d lost, want %v and %d", missing, lost, want, wantLost)
		}
	}
	check([]example.Gap{{First: 3, Last: 4}, {First: 6, Last: 8}}, 0)
	l.Came("dmz-1", 7, "7", 1) // late
	check([]example.Gap{{First: 3, Last: 4}, {First: 6, Last: 6}, {First: 8, Last: 8}}, 0)
	l.Promised("dmz-1", 11, []example.Gap{{First: 3, Last: 5, Reason: "lost"}}) // 5 came all the same
	check([]example.Gap{{First: 6, Last: 6}, {First: 8, Last: 8}, {First: 10, Last: 11}}, 2)
	for _, n := range []uint64{6, 8, 10, 11} {
		l.Came("dmz-1", n, fmt.Sprint(n), 1)
	}
	check(nil, 2)
	if missing, lost := l.Missing("dmz-2"); missing != nil || lost != 0 {
		t.Errorf("a sensor that said nothing: missing %v, %d lost", missing, lost)
	}

	for _, tt := range []struct {
		revision uint32
		news     bool
	}{{2, true}, {1, false}, {2, false}, {3, true}} {
		if got := l.Came("dmz-1", 0, "hit", tt.revision); got != tt.news {
			t.Errorf("revision %d is news: %t, want %t", tt.revision, got, tt.news)
		}
	}
}
