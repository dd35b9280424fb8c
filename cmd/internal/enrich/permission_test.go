package enrich

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/fleet/site"
	"portolan/cmd/internal/natstest"
	"portolan/correlate/attribute"
)

// TestPermissions: with the permissions of their roles and no more, a sensor, two hosts and an enricher work together, and
// the one host cannot publish in the name of the other.
func TestPermissions(t *testing.T) {
	roles := map[string]site.Role{"dmz-1": site.Sensor, "host-1": site.Endpoint, "host-2": site.Endpoint, "enrich-1": site.Enricher}
	users := []string{`{ user: "admin", password: "pw" }`}
	for name, role := range roles {
		p := site.PermissionsOf(role, name)
		users = append(users, fmt.Sprintf("{ user: %q, password: pw, permissions: { publish: { allow: [%s] }, subscribe: { allow: [%s] } } }",
			name, quoted(p.Publish), quoted(p.Subscribe)))
	}
	s := natstest.Start(t, "hub", fmt.Sprintf("jetstream { store_dir: %q }\n", t.TempDir())+"accounts { P { jetstream: enabled, users: [\n"+strings.Join(users, "\n")+"\n] } }")
	as := func(name string) string { return strings.Replace(s.URL, "nats://", "nats://"+name+":pw@", 1) }

	seen := follow(t, open(t, "admin", as("admin"))) // which also makes the streams
	w := &world{t, open(t, "dmz-1", as("dmz-1")), time.Now().Add(-time.Minute)}
	start(t, "enrich-1", as("enrich-1"))
	one := &world{t, open(t, "host-1", as("host-1")), w.base}
	one.publish(w.says(1), w.connects(1, netip.AddrPortFrom(hostAddr(1), 40000), 4242))
	one.flush()

	c := busConfig("host-2", as("host-2"))
	c.Timeout = 2 * time.Second // in which no acknowledgement will come
	b, err := bus.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	lie := w.connects(1, netip.AddrPortFrom(hostAddr(1), 40000), 666)
	if err := b.PublishEndpoint(lie); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_ = b.Flush(ctx) // ends when the server has refused it
	if st := b.PublishStats(); st.Lost != 1 || st.Stored != 0 {
		t.Errorf("a record in another host's name: %+v", st)
	}

	w.publishHit(w.hit(1))
	if a := seen.status(w.hit(1).ID, attribute.Matched, 1).Portolan.Attribution; a.Process.PID != 4242 {
		t.Errorf("%+v", a)
	}
}

// quoted returns subjects as they stand in a server's configuration.
func quoted(subjects []string) string { return "'" + strings.Join(subjects, "', '") + "'" }
