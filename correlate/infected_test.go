package correlate

import (
	"fmt"
	"testing"
	"time"

	"portolan/sensor/event"
)

// What hosts of one zone calculate does not become ordinary there: the fourth host that follows the
// same campaign is found as the first ones are, though its ports and destinations were all used before.
func TestInfectedHostsMakeNothingOrdinary(t *testing.T) {
	answers := []uint32{0x57F32D9C, 0x22F52D99, 0x2B4E7153, 0x5E1C8A37, 0x4D0B91E6}
	for _, tt := range []struct {
		name   string
		dst    func(x uint32) (y uint32, port uint16)
		within int // contacts until the alert
	}{
		{"half-swap", func(x uint32) (uint32, uint16) { return x<<16 | x>>16, 443 }, 1},
		{"halves-sum", func(x uint32) (uint32, uint16) { return x, uint16(x>>16 + x&0xffff) }, 3},
		{"mul-add", func(x uint32) (uint32, uint16) { return x, uint16((x>>24)*(x>>16&255) + x>>8&255) }, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(withBaseline(t, DefaultConfig()))
			if err != nil {
				t.Fatal(err)
			}
			at := event.Time(0)
			for host := range 24 {
				client, contacts := fmt.Sprintf("10.0.0.%d", 10+host), 0
				for n, x := range answers {
					y, port := tt.dst(x)
					at = at.Add(3 * time.Minute) // what a host did is known before the next one does it
					given := c.Advance(nil, at)
					given = c.ObserveLookup(given[:0], lookupOf(at, client, addr4(x)))
					given = c.ObserveConnection(given, connectionOf(at.Add(time.Millisecond), client, netipAddrPort(y, port)))
					for _, h := range given {
						if contacts == 0 && h.Level == Alert {
							contacts = n + 1
						}
					}
				}
				if contacts == 0 || contacts > tt.within {
					t.Errorf("host %d: alert at contact %d, want one by contact %d", host+1, contacts, tt.within)
				}
			}
		})
	}
}

// A client most of whose lookups go elsewhere gives no lead for destinations that no lookup explains;
// one whose lookups are seen does, and so does one about which too little is known.
func TestBlindClientGivesNoLead(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		explained, unexplained int // connections before
		want                   int
	}{
		{"nothing known", 0, 0, 1},
		{"lookups seen", 40, 10, 1},
		{"encrypted lookups", 10, 60, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := freshTable(t)
			var given []Hit
			at := event.Time(0)
			const client = "10.0.0.7"
			for i := range max(tt.explained, tt.unexplained) {
				at = at.Add(2 * time.Minute) // slow enough for the gate
				if i < tt.explained {
					given = c.ObserveLookup(given, lookupOf(at, client, addr4(0x51000000+uint32(i)<<12)))
					given = c.ObserveConnection(given, connectionOf(at+1, client, netipAddrPort(0x51000000+uint32(i)<<12, 443)))
				}
				if i < tt.unexplained {
					given = c.ObserveConnection(given, connectionOf(at+2, client, netipAddrPort(0x31000000+uint32(i)*0x01013377, 443)))
				}
			}
			at = at.Add(10 * time.Minute)
			for i := range uint32(5) {
				given = c.ObserveLookup(given, lookupOf(at, client, addr4(0x60000000+i*0x00A1B2C3)))
			}
			for i := range uint32(4) {
				given = c.ObserveConnection(given, connectionOf(at.Add(time.Duration(i+1)*100*time.Millisecond), client, netipAddrPort(0x90000000+i*0x01234567, 443)))
			}
			leads := 0
			for _, h := range finals(c.Flush(given)) {
				if h.Level == Lead {
					leads++
				}
			}
			if leads != tt.want {
				t.Errorf("%d leads, want %d", leads, tt.want)
			}
		})
	}
}

// Two services in one network that answer, and two in another that do not, have a constant in common by
// how networks are laid out. The same keys between addresses far from each other are an alert.
func TestNeighboursTeachLess(t *testing.T) {
	const key = 0x5A17C3E9
	for _, tt := range []struct {
		name   string
		x1, x2 uint32
		want   Level
	}{
		{"far from each other", 0x57F32D9C, 0x22F52D99, Alert},
		{"one /15", 0x57F02D9C, 0x57F12D11, Watch},
		{"each in the other's network", 0x57F32D9C, 0x57F32D91 ^ key, None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := freshTable(t)
			const client = "10.0.0.7"
			var given []Hit
			at := event.Time(0)
			for i, x := range []uint32{tt.x1, tt.x2} {
				// What was answered first is forgotten: only the pair is remembered.
				at = at.Add(time.Hour)
				if i > 0 {
					for n := range uint32(DefaultConfig().AnswersPerClient) {
						given = c.ObserveLookup(given, lookupOf(at, client, addr4(0x90000000+n*0x00A1B2C3)))
					}
					at = at.Add(2 * time.Hour)
				}
				given = c.ObserveLookup(given, lookupOf(at, client, addr4(x)))
				given = c.ObserveConnection(given, connectionOf(at+1, client, netipAddrPort(x^key, 443)))
			}
			level := None
			for _, h := range finals(c.Flush(given)) {
				level = max(level, h.Level)
			}
			if level != tt.want {
				t.Errorf("level %v, want %v", level, tt.want)
			}
		})
	}
}
