package fleet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"portolan/cmd/internal/bus"
	"portolan/sensor/event"
)

// TestPartitionIsTheServers compares with what a mapping of nats-server makes of zone and client.
func TestPartitionIsTheServers(t *testing.T) {
	zones := []event.Zone{{}, {Point: 65535}, {Kind: event.VLAN, ID: 12}, {Point: 3, Kind: event.VNI, ID: 1 << 23}, {Kind: event.ERSPAN, ID: 1023}}
	clients := []string{"10.0.0.7", "255.255.255.255", "0.0.0.0", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.9"}
	for i := range 256 {
		clients = append(clients, fmt.Sprintf("192.0.2.%d", i))
	}
	for _, n := range []int{1, 2, 3, 16, 256} {
		mapping, err := server.NewSubjectTransform("obs.*.*", fmt.Sprintf("p.{{partition(%d,1,2)}}", n))
		if err != nil {
			t.Fatal(err)
		}
		used := map[int]bool{}
		for _, z := range zones {
			for _, c := range clients {
				a := netip.MustParseAddr(c)
				want := mapping.TransformSubject("obs." + z.String() + "." + bus.HostToken(a))
				got := Partition(z, a, n)
				if fmt.Sprintf("p.%d", got) != want {
					t.Errorf("Partition(%v, %v, %d) = %d, nats-server maps to %s", z, a, n, got, want)
				}
				used[got] = true
			}
		}
		if n <= 16 && len(used) != n {
			t.Errorf("%d of %d partitions are used", len(used), n)
		}
	}
}

func TestPartitionMakesNoGarbage(t *testing.T) {
	z, a := event.Zone{Kind: event.VLAN, ID: 12}, netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() { Partition(z, a, 16) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
