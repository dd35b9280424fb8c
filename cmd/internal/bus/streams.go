package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The streams.
const (
	HitsStream         = "PORTOLAN_HITS"
	OpsStream          = "PORTOLAN_OPS"
	EndpointStream     = "PORTOLAN_ENDPOINT"
	ObservationsStream = "PORTOLAN_OBS"
)

// minDuplicates is the shortest time in which a stream recognises a message sent again that
// bridges an ordinary outage; the streams made here have it.
const minDuplicates = 10 * time.Minute

// Streams returns the configurations of the streams: all but PORTOLAN_OBS unless
// observations is set. Each is bounded in bytes too, so that it cannot fill a disk; the
// oldest messages go first.
func Streams(observations bool) []jetstream.StreamConfig {
	const mib = 1 << 20
	stream := func(name, about string, age time.Duration, bytes int64, subjects ...string) jetstream.StreamConfig {
		for i := range subjects {
			subjects[i] = subjectRoot + "." + subjects[i]
		}
		return jetstream.StreamConfig{
			Name:        name,
			Description: about,
			Subjects:    subjects,
			Retention:   jetstream.LimitsPolicy,
			Discard:     jetstream.DiscardOld,
			Storage:     jetstream.FileStorage,
			Compression: jetstream.S2Compression,
			MaxAge:      age,
			MaxBytes:    bytes,
			MaxMsgSize:  MaxMessage + 4096, // and headers
			Duplicates:  minDuplicates,
		}
	}
	const day = 24 * time.Hour
	list := []jetstream.StreamConfig{
		stream(HitsStream, "Portolan hits and their revisions", 30*day, 1024*mib, "hit.>", "enriched.>"),
		stream(OpsStream, "Portolan coverage records", 30*day, 256*mib, "cover.>"),
		stream(EndpointStream, "Portolan endpoint records", day, 1024*mib, "endpoint.>"),
	}
	if observations {
		list = append(list, stream(ObservationsStream, "Portolan raw observations", day, 1024*mib, "obs.>"))
	}
	return list
}

// checkStreams is ensureStreams for a bus that may be patient: then only a stream that is there and
// could not hold hits is an error, and what may be mended meanwhile is said once.
func (b *Bus) checkStreams(ctx context.Context) error {
	err := b.ensureStreams(ctx)
	if err != nil && b.cfg.Patient && !errors.As(err, new(*misfitError)) {
		if b.pub.news(err.Error()) {
			b.log.Warn("nats has no stream for hits: they wait in the spool", "error", err)
		}
		return nil
	}
	b.unchecked.Store(false)
	return err
}

// misfitError says why a stream that is there cannot be used.
type misfitError struct{ why string }

// Error returns the reason.
func (e *misfitError) Error() string { return e.why }

func misfit(format string, args ...any) error { return &misfitError{fmt.Sprintf(format, args...)} }

// ensureStreams makes the streams that are missing and checks those that exist. It changes
// none: whoever set one up differently may have had a reason, and hits lie in it.
func (b *Bus) ensureStreams(ctx context.Context) error {
	for _, want := range Streams(b.cfg.Observations) {
		if err := b.ensureStream(ctx, want); err != nil {
			return fmt.Errorf("nats %s: stream %s: %w", b.at, want.Name, err)
		}
	}
	return nil
}

// mendStreams makes streams that went missing while the bus was open, as far as it may, and
// reports whether it made one. It says what it finds once: a server with other subscribers leaves a hit without
// a stream simply unanswered.
func (b *Bus) mendStreams(ctx context.Context) (made bool) {
	for _, want := range Streams(b.cfg.Observations) {
		_, err := b.streamInfo(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			err = b.createStream(ctx, want)
			if made = made || err == nil; err != nil && b.pub.news(err.Error()) {
				b.log.Warn("nats: no stream takes messages", "server", b.at, "stream", want.Name, "error", err)
			}
		case err != nil && noJetStream(err):
			if err = jetStreamError(err); b.pub.news(err.Error()) {
				b.log.Warn("nats: no stream takes messages", "server", b.at, "error", err)
			}
			return made
		case err != nil:
			return made // the server is busy, or does not let us look
		}
	}
	return made
}

func (b *Bus) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	denied := (*DeniedError)(nil)
	have, err := b.streamInfo(ctx, want.Name)
	switch {
	case errors.As(err, &denied) && denied.Operation == "publish":
		// Acknowledgements will tell whether it exists. (Without the inbox there will be none.)
		b.log.Info("nats stream cannot be looked at", "stream", want.Name, "error", err)
		return nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return b.createStream(ctx, want)
	case err != nil:
		return jetStreamError(err)
	}
	warnings, err := checkStream(&have.Config, &want)
	for _, w := range warnings {
		b.log.Warn("nats stream is set up differently", "stream", want.Name, "difference", w)
	}
	return err
}

func (b *Bus) streamInfo(ctx context.Context, name string) (info *jetstream.StreamInfo, err error) {
	err = b.request(ctx, b.API("STREAM.INFO."+name), func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, name)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	return info, err
}

func (b *Bus) createStream(ctx context.Context, want jetstream.StreamConfig) error {
	err := b.request(ctx, b.API("STREAM.CREATE."+want.Name), func(ctx context.Context) error {
		_, err := b.js.CreateStream(ctx, want)
		return err
	})
	api := (*jetstream.APIError)(nil)
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		// Another sensor was faster.
		have, err := b.streamInfo(ctx, want.Name)
		if err != nil {
			return jetStreamError(err)
		}
		_, err = checkStream(&have.Config, &want)
		return err
	case errors.As(err, &api) && api.ErrorCode == subjectOverlap:
		return misfit("missing, and another stream already takes some of its subjects (%s)",
			strings.Join(want.Subjects, ", "))
	case err != nil:
		return fmt.Errorf("missing, and cannot be made: %w", jetStreamError(err))
	}
	b.log.Info("nats stream made", "server", b.at, "stream", want.Name)
	return nil
}

// subjectOverlap is the server's code JSStreamSubjectOverlapErr.
const subjectOverlap = 10065

// checkStream compares an existing stream with what is wanted: an error when hits could not
// be stored or watched, warnings when less is kept than promised. How long and how much a
// stream keeps is the operator's choice.
func checkStream(have, want *jetstream.StreamConfig) (warnings []string, err error) {
	for _, s := range want.Subjects {
		if !slices.ContainsFunc(have.Subjects, func(h string) bool { return covers(h, s) }) {
			return nil, misfit("does not take %s but %s", s, strings.Join(have.Subjects, ", "))
		}
	}
	switch {
	case have.Retention != jetstream.LimitsPolicy:
		return nil, misfit("retention is %s, which forgets what one subscriber has read; it has to be %s",
			have.Retention, jetstream.LimitsPolicy)
	case have.Sealed:
		return nil, misfit("is sealed and takes no messages")
	case have.NoAck:
		return nil, misfit("acknowledges nothing (no_ack)")
	case have.MaxMsgSize > 0 && have.MaxMsgSize < want.MaxMsgSize:
		return nil, misfit("takes messages of %d bytes at most, and a hit with its headers may have %d",
			have.MaxMsgSize, want.MaxMsgSize)
	}
	if have.Storage != jetstream.FileStorage {
		warnings = append(warnings, fmt.Sprintf("storage is %s: a restart of the server loses what it holds", have.Storage))
	}
	if have.Discard != jetstream.DiscardOld {
		warnings = append(warnings, "discard is new: when full it refuses hits instead of forgetting the oldest")
	}
	if have.Duplicates < want.Duplicates {
		warnings = append(warnings, fmt.Sprintf("recognises a message sent again for %v only, not %v",
			have.Duplicates, want.Duplicates))
	}
	return warnings, nil
}

// covers reports whether every subject that b matches is matched by a, where b ends in ">".
func covers(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, t := range as {
		switch {
		case t == ">":
			return i < len(bs)
		case i >= len(bs):
			return false
		case t == "*" && bs[i] != ">":
		case t != bs[i]:
			return false
		}
	}
	return len(as) == len(bs)
}

// noJetStream reports whether err says that the server, or this account of it, has no
// JetStream. A cluster that elects a leader says so too, for a moment.
func noJetStream(err error) bool {
	return errors.Is(err, jetstream.ErrJetStreamNotEnabled) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) ||
		errors.Is(err, nats.ErrNoResponders)
}

// jetStreamError puts what a server without JetStream says into words.
func jetStreamError(err error) error {
	if noJetStream(err) {
		return fmt.Errorf("JetStream is not enabled on the server or for this account: %w", err)
	}
	return err
}
