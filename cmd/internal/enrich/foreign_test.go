package enrich

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/feed/process"
	"portolan/cmd/internal/natstest"
	"portolan/correlate/attribute"
)

func TestParseForeign(t *testing.T) {
	for _, tt := range []struct {
		text, want string
	}{
		{"falco.events=falco", ""},
		{"logs.*.>=auto", ""},
		{"falco.events", "want SUBJECT=FORMAT"},
		{"falco.events=syslog", `format "syslog": want one of`},
		{"a..b=ecs", "tokens parted by dots"},
		{"a.>.b=ecs", "tokens parted by dots"},
		{"a b=ecs", "tokens parted by dots"},
		{"=ecs", "tokens parted by dots"},
		{">=ecs", "no wildcard"},
		{"*.v1.endpoint.>=ecs", "no wildcard"},
		{"portolan.v1.endpoint.>=ecs", "of another program"},
		{"$JS.>=ecs", "of another program"},
		{"_INBOX.>=ecs", "of another program"},
	} {
		f, err := ParseForeign(tt.text)
		if tt.want == "" && (err != nil || f.Subject+"="+f.Format.String() != tt.text) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, %v; want %q", tt.text, f, err, tt.want)
		}
	}
}

// importFrom runs an importer until the test ends, and returns when it reads.
func importFrom(t *testing.T, b *bus.Bus, list ...Foreign) *Importer {
	t.Helper()
	i, err := NewImporter(b, list, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	reads, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- i.Run(ctx, func() { close(reads) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-reads:
	case <-time.After(patience):
		t.Fatal("the importer does not begin")
	}
	return i
}

// TestForeign: what Falco and auditd publish under subjects of their own names the process of a hit, whichever and
// however many importers read it, and what is no record of theirs is refused with the reason.
func TestForeign(t *testing.T) {
	url := natstest.Start(t, "hub", "").URL
	w := &world{t, open(t, "dmz-1", url), time.Now().Add(-time.Minute)}
	seen := follow(t, open(t, "watch", url))
	list := []Foreign{{"falco.>", process.Falco}, {"audit", process.Auditd}}
	first := importFrom(t, open(t, "enrich-1", url), list...)
	second := importFrom(t, open(t, "enrich-2", url), list...)
	start(t, "enrich-1", url)

	falco := func(n int, at time.Time, host string) string {
		return fmt.Sprintf(`{"hostname":%q,"output":"x","output_fields":{"evt.res":"EINPROGRESS","evt.time":%d,"evt.type":"connect",`+
			`"fd.cip":%q,"fd.cport":40000,"fd.l4proto":"tcp","fd.sip":"198.51.100.23","fd.sport":10198,"proc.exepath":"/usr/bin/curl",`+
			`"proc.name":"curl","proc.pid":4711,"user.name":"web","user.uid":1000},"priority":"Notice","rule":"Outbound","source":"syscall","time":%q}`,
			host, at.UnixNano(), hostAddr(n), at.Format(time.RFC3339Nano))
	}
	conn := w.b.Conn()
	send := func(subject string, lines ...string) {
		t.Helper()
		if err := conn.Publish(subject, []byte(strings.Join(lines, "\n"))); err != nil {
			t.Fatal(err)
		}
	}
	at := w.hit(1).Connection.Time.UTC()
	send("falco.events", falco(1, at, "Web-1.example"), "{", falco(3, at, ""))
	send("falco.late", falco(4, at.Add(24*time.Hour), "web-4"))

	// Of a connect in auditd's log the source's address is not known: a host has to say that it has it.
	at = w.hit(2).Connection.Time.UTC()
	stamp := fmt.Sprintf("audit(%d.%03d:77):", at.Unix(), at.Nanosecond()/1e6)
	send("audit",
		"node=host-2 type=SYSCALL msg="+stamp+` arch=c000003e syscall=42 success=no exit=-115 a0=3 a1=7ffd a2=10 a3=0 items=0 ppid=1 pid=99 `+
			`auid=1000 uid=1000 gid=1000 euid=1000 suid=1000 fsuid=1000 egid=1000 sgid=1000 fsgid=1000 tty=pts0 ses=1 comm="nc" exe="/usr/bin/nc" key="portolan"`,
		"node=host-2 type=SOCKADDR msg="+stamp+" saddr=020027D6C63364170000000000000000")
	w.publish(w.says(2))
	w.flush()

	w.publishHit(w.hit(1))
	a := seen.status(w.hit(1).ID, attribute.Matched, 1).Portolan.Attribution
	if a.Method != "exact" || a.Process.PID != 4711 || a.Process.Source != "falco" || a.Endpoint.ID != "web-1-example" {
		t.Errorf("by Falco: %+v, process %+v", a, a.Process)
	}
	w.publishHit(w.hit(2))
	a = seen.status(w.hit(2).ID, attribute.Matched, 1).Portolan.Attribution
	if a.Method != "dst-tuple" || a.Process.PID != 99 || a.Process.Source != "auditd" || a.Endpoint.ID != "host-2" {
		t.Errorf("by auditd: %+v, process %+v", a, a.Process)
	}

	for _, i := range []*Importer{first, second} {
		var c bus.ImportCounts
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if c = i.Counts(); c.Lines == 6 && c.Records == 3 {
				break
			}
		}
		refused := map[string]uint64{
			"falco: the text is broken": 1, "falco: it names no host": 1, "falco: its time is missing, before 1970 or in the future": 1,
		}
		if c.Lines != 6 || c.Records != 3 || c.Lost != 0 || !maps.Equal(c.Refused, refused) {
			t.Errorf("%+v; want six lines, three records, refused %v", c, refused)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := i.bus.Flush(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
	stored, err := w.b.Stored(t.Context(), bus.EndpointStream)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Messages != 4 { // the address and the connect of web-1, what host-2 says and its connect
		t.Errorf("%d records stored of what two importers read, want 4", stored.Messages)
	}
}
