package bus

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Examination is what a look at a server showed that publishes and keeps nothing.
type Examination struct {
	Server string // for people: no user, no password
	// Streams are looked at like those that Open makes; one that may not be looked at is no error.
	Streams []StreamExamination
	// Publishing tells of each kind of message that goes into a stream whether a stream would take it.
	Publishing []PublishExamination
}

// StreamExamination is what was found of a stream.
type StreamExamination struct {
	Name     string
	Missing  bool     // Open would make it, if it may
	Warnings []string // it keeps less than is promised
	Err      error    // why it could not hold messages, or not be looked at; nil when neither
}

// PublishExamination is what became of a message that no stream accepts.
type PublishExamination struct {
	What    string // "hits" or "coverage records"
	Subject string
	Err     error // why such a message would not be stored; nil when it would
}

// noSuchStream is expected to take the messages of Examine: streams refuse what was meant for another.
const noSuchStream = "PORTOLAN_DOCTOR"

// notMatching is the server's code JSStreamNotMatchErr.
const notMatching = 10060

// Examine connects as a sensor of that name would, looks at the streams, and finds out whether it may
// publish: by empty messages that say they are for a stream that does not exist, so that none keeps them. (A
// subscriber without JetStream sees them.) The error says why there is no connection. cfg.URL has to be set;
// the state directory is left alone.
func Examine(ctx context.Context, cfg Config) (*Examination, error) {
	cfg.Reader, cfg.Patient, cfg.Listen = true, false, ""
	if cfg.URL == "" {
		return nil, errors.New("bus: examine: no server url")
	}
	b, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	x := &Examination{Server: b.URL()}
	for _, want := range Streams(cfg.Observations) {
		s := StreamExamination{Name: want.Name}
		have, err := b.streamInfo(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			s.Missing = true
		case err != nil:
			s.Err = jetStreamError(err)
		default:
			s.Warnings, s.Err = checkStream(&have.Config, &want)
		}
		x.Streams = append(x.Streams, s)
	}
	for _, p := range []PublishExamination{
		{What: "hits", Subject: Subject("lead", cfg.Name, netip.IPv4Unspecified())},
		{What: "coverage records", Subject: CoverSubject(cfg.Name)},
	} {
		p.Err = b.wouldStore(ctx, p.Subject)
		x.Publishing = append(x.Publishing, p)
	}
	return x, b.Close()
}

// wouldStore returns nil when a stream reads what is published to the subject.
func (b *Bus) wouldStore(ctx context.Context, subject string) error {
	err := b.request(ctx, subject, func(ctx context.Context) error {
		_, err := b.js.PublishMsg(ctx, nats.NewMsg(subject), jetstream.WithExpectStream(noSuchStream), jetstream.WithRetryAttempts(0))
		return err
	})
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == notMatching:
		return nil
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("no stream takes %s", subject)
	case err == nil:
		return fmt.Errorf("something other than a stream answered on %s", subject)
	}
	return err
}
