package archive

import (
	"context"
	"testing"

	"portolan/cmd/internal/feed/feedtest"
)

func read(t *testing.T, cfg Config, paths ...string) (Report, *feedtest.Log) {
	t.Helper()
	a, err := Open(paths, cfg)
	if err != nil {
		t.Fatal(err)
	}
	log := &feedtest.Log{}
	r, err := a.Run(context.Background(), log)
	if err != nil {
		t.Fatal(err)
	}
	return r, log
}

func TestCaptures(t *testing.T) {
	r, log := read(t, DefaultConfig(), "../../../../testdata/pcap/half-swap.pcap", "../../../../testdata/pcap/xor-known.pcap.zst")
	if log.Lookups == 0 || log.Connections == 0 || r.Lookups != uint64(log.Lookups) || len(r.Sources) != 2 {
		t.Errorf("%d lookups and %d connections from captures: %+v", log.Lookups, log.Connections, r)
	}
}
