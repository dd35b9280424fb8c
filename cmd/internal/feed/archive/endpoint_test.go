package archive

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/process"
)

// TestEndpointRecords: what endpoint tools and auditd wrote is read as any log, each recognised by
// its content; auditd's connects need to be told their host's address.
func TestEndpointRecords(t *testing.T) {
	for _, f := range process.Formats() {
		t.Run(f.String(), func(t *testing.T) {
			from := "../process/testdata/" + f.String() + ".txtar"
			if f == process.Auditd {
				from = "../audit/testdata/constructed.txtar"
			}
			a, err := txtar.ParseFile(from)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "endpoint.log")
			if err := os.WriteFile(path, a.Files[0].Data, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := DefaultConfig()
			cfg.Origin = feed.Origin{HostID: "host-1"}
			nobody, _ := read(t, cfg, path)
			cfg.Origin.Addr = netip.MustParseAddr("10.0.0.7")
			cfg.Origin.Addrs = map[string]netip.Addr{"web-1": netip.MustParseAddr("10.0.0.8")}
			r, log := read(t, cfg, path)
			if log.Connections == 0 || log.Records == 0 || len(r.Sources) != 1 || r.Sources[0].Format != f.String() {
				t.Fatalf("%d connections and %d records: %+v", log.Connections, log.Records, r)
			}
			if limits := r.Sources[0].Limits; limits&feed.NoConns != 0 || limits&feed.ForeignClock == 0 {
				t.Errorf("limits: %v", limits)
			}
			if f == process.Auditd {
				if limits := nobody.Sources[0].Limits; limits&feed.NoConns == 0 {
					t.Errorf("limits without the host's address: %v", limits)
				}
				if !strings.Contains(log.String(), "10.0.0.7:0") {
					t.Errorf("no connection comes from the origin's address:\n%s", log)
				}
			}
		})
	}
}
