package bus

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"portolan/cmd/internal/natstest"
	"portolan/cmd/internal/spool"
	"portolan/correlate"
)

// The test binary is also a sensor, so that tests can kill real processes.
const roleVariable = "PORTOLAN_TEST_ROLE"

func TestMain(m *testing.M) {
	natstest.Main()
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(m.Run())
	case "sensor":
		fatal(runSensor())
	default:
		fatal(fmt.Errorf("role %q", role))
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// numberedHit returns hit n; each has a client of its own.
func numberedHit(n uint64) *correlate.Hit {
	h := halfSwap()
	h.ID = numberedID(n)
	a := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	h.Client, h.Connection.Src = a, netip.AddrPortFrom(a, 40112)
	return h
}

func numberedID(n uint64) (id correlate.ID) {
	binary.BigEndian.PutUint64(id[:], n)
	binary.BigEndian.PutUint64(id[8:], ^n)
	return id
}

func sensorConfig(t *testing.T, url string) Config {
	c := testConfig(t)
	c.URL, c.Timeout = url, time.Second
	return c
}

// publishNumbers publishes hits first to last, with a pause after each.
func publishNumbers(t *testing.T, b *Bus, first, last uint64, pause time.Duration) {
	t.Helper()
	for n := first; n <= last; n++ {
		if err := b.Publish(NewMessage(numberedHit(n), Context{Sensor: b.cfg.Name})); err != nil {
			t.Error(err)
		}
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

// drained waits until nothing is pending, and checks that nothing was lost.
func drained(t *testing.T, b *Bus) PublishStats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	s := b.PublishStats()
	if s.Lost != 0 || s.Recovered+s.Accepted != s.Stored || s.Pending != 0 {
		t.Errorf("stats %+v: want as many stored as accepted, and none lost", s)
	}
	return s
}

// collected is what a subscriber that follows the contract has.
type collected struct {
	ids       map[string]int // how often each was handed on
	sequences map[uint64]bool
}

// collect reads the stream from its beginning until ok.
func collect(t *testing.T, url string, ok func(c *collected) bool) *collected {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Name, cfg.URL, cfg.Reader, cfg.Timeout = "watch", url, true, patience/4
	b := open(t, cfg)
	c := &collected{ids: map[string]int{}, sequences: map[uint64]bool{}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	enough := false
	for again := true; again; {
		err := b.Subscribe(ctx, Filter{All: true}, func(m *Message, _ Meta) {
			c.ids[m.Event.ID]++
			c.sequences[m.Portolan.Sequence] = true
			if ok(c) {
				enough = true
				cancel()
			}
		})
		// A cluster that elects a leader may leave a request without an answer; then nothing has come yet.
		again = errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && len(c.ids) == 0
		if err != nil && !again {
			t.Fatal(err)
		}
	}
	if !enough {
		t.Errorf("of the stream %d messages came, and that is not enough", len(c.ids))
	}
	return c
}

// wantNumbers checks that the stream holds hits first to last, each handed on once, with
// sequences without a gap.
func wantNumbers(t *testing.T, url string, first, last uint64) {
	t.Helper()
	n := int(last - first + 1)
	c := collect(t, url, func(c *collected) bool { return len(c.ids) >= n })
	low, high := ^uint64(0), uint64(0)
	for q := range c.sequences {
		low, high = min(low, q), max(high, q)
	}
	if high-low+1 != uint64(n) || len(c.sequences) != n {
		t.Errorf("%d sequences from %d to %d, want %d without a gap", len(c.sequences), low, high, n)
	}
	for k := first; k <= last; k++ {
		if got := c.ids[MessageID(numberedID(k).String(), 1)]; got != 1 {
			t.Errorf("hit %d was handed on %d times", k, got)
		}
	}
}

// The variables of a sensor in a process of its own.
const (
	urlVariable   = "PORTOLAN_TEST_URL"
	stateVariable = "PORTOLAN_TEST_STATE_DIR"
	firstVariable = "PORTOLAN_TEST_FIRST"
)

// runSensor publishes numbered hits until it is killed, and writes how many are accepted;
// without a first number it only sends what is left.
func runSensor() error {
	c := DefaultConfig()
	c.Name, c.URL, c.StateDir, c.Timeout = "dmz-1", os.Getenv(urlVariable), os.Getenv(stateVariable), patience
	b, err := Open(context.Background(), c)
	if err != nil {
		return err
	}
	var first uint64
	if _, err := fmt.Sscan(os.Getenv(firstVariable), &first); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Flush(ctx); err != nil {
			return err
		}
		st := b.pub.spool.Stats()
		gaps, _ := b.pub.spool.TakeGaps(1 << 20)
		unused, err := json.Marshal(gaps)
		if err != nil {
			return err
		}
		fmt.Println(st.Sequence, st.Pending, st.EverSpoilt, st.EverLost[spool.Alert.String()], string(unused))
		return b.Close()
	}
	// Hits are accepted in any order, by the disk or by an acknowledgement: which ones are is known when
	// all are.
	out := bufio.NewWriter(os.Stdout)
	for n := first; ; n++ {
		if err := b.Publish(NewMessage(numberedHit(n), Context{Sensor: c.Name})); err != nil {
			return err
		}
		all := n - first + 1
		for b.PublishStats().Accepted < all && all%32 == 0 {
			time.Sleep(time.Millisecond)
		}
		if b.PublishStats().Accepted == all {
			fmt.Fprintln(out, all)
			if err := out.Flush(); err != nil {
				return err
			}
		}
		if n%8 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}
