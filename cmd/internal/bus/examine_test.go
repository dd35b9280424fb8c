package bus

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// TestExamine: a server is looked at without leaving anything there.
func TestExamine(t *testing.T) {
	srv := startServer(t, &server.Options{
		JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{
			{Username: "admin", Password: secret},
			{Username: "narrow", Password: secret, Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"portolan.v1.cover.dmz-1", "$JS.API.STREAM.INFO.PORTOLAN_HITS"}},
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.dmz-1.>"}},
			}},
		},
	})
	as := func(user string) Config {
		c := testConfig(t)
		c.URL = strings.Replace(srv.ClientURL(), "nats://", "nats://"+user+":"+secret+"@", 1)
		return c
	}
	examine := func(user string) *Examination {
		t.Helper()
		x, err := Examine(t.Context(), as(user))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(x.Server, secret) {
			t.Errorf("the password is in %s", x.Server)
		}
		return x
	}

	x := examine("admin")
	for _, s := range x.Streams {
		if !s.Missing {
			t.Errorf("before anybody made it: %+v", s)
		}
	}
	for _, p := range x.Publishing {
		if p.Err == nil || !strings.Contains(p.Err.Error(), "no stream takes "+p.Subject) {
			t.Errorf("without a stream: %+v", p)
		}
	}

	b := open(t, as("admin")) // makes them
	x = examine("admin")
	for _, s := range x.Streams {
		if s.Missing || s.Err != nil || len(s.Warnings) > 0 {
			t.Errorf("%+v", s)
		}
		info, err := b.streamInfo(t.Context(), s.Name)
		if err != nil || info.State.Msgs != 0 || info.State.LastSeq != 0 {
			t.Errorf("%s holds what was tried: %+v, %v", s.Name, info, err)
		}
	}
	for _, p := range x.Publishing {
		if p.Err != nil {
			t.Errorf("%+v", p)
		}
	}

	x = examine("narrow")
	var denied *DeniedError
	for _, p := range x.Publishing {
		if hits := p.What == "hits"; hits != errors.As(p.Err, &denied) || !hits && p.Err != nil {
			t.Errorf("who may publish coverage only: %+v", p)
		}
	}
	for _, s := range x.Streams {
		if hits := s.Name == HitsStream; hits != (s.Err == nil) {
			t.Errorf("who may look at hits only: %+v", s)
		}
	}

	// A stream that keeps less than it should.
	if err := b.js.DeleteStream(t.Context(), OpsStream); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: OpsStream, Subjects: []string{"portolan.v1.cover.>"}, Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardNew,
	}); err != nil {
		t.Fatal(err)
	}
	for _, s := range examine("admin").Streams {
		if (s.Name == OpsStream) != (len(s.Warnings) > 0) {
			t.Errorf("%+v", s)
		}
	}

	// Nobody there, and no password.
	c := as("admin")
	c.URL = srv.ClientURL()
	if _, err := Examine(t.Context(), c); err == nil || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("without a password: %v", err)
	}
	c.URL = ""
	if _, err := Examine(t.Context(), c); err == nil {
		t.Error("no server was named")
	}
}
