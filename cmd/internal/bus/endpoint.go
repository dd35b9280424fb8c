package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"portolan/cmd/internal/spool"
	"portolan/correlate/attribute"
)

// EndpointSubject returns where a host's records of a kind are published:
// portolan.v1.endpoint.{kind}.{hostid}.
func EndpointSubject(kind attribute.Kind, hostID string) string {
	return subjectRoot + ".endpoint." + kind.String() + "." + hostID
}

// SplitEndpointSubject returns the kind and the host of what EndpointSubject returns.
func SplitEndpointSubject(subject string) (kind, hostID string, ok bool) {
	rest, ok := strings.CutPrefix(subject, subjectRoot+".endpoint.")
	if !ok {
		return "", "", false
	}
	kind, hostID, ok = strings.Cut(rest, ".")
	return kind, hostID, ok && hostID != "" && !strings.Contains(hostID, ".")
}

// EndpointID returns what names a record among those of all hosts.
func EndpointID(r *attribute.Record) string { return r.HostID + "." + r.ID }

// PublishEndpoint hands an endpoint's record over, as Publish does a hit: it returns at once, and the
// record is stored at least once. When the spool is full the oldest records go first, those that
// tell of a host last. The error says that the record cannot be encoded, or is lost because the
// queue is full. r may be changed afterwards.
func (b *Bus) PublishEndpoint(r *attribute.Record) error {
	m, err := spooledRecord(r)
	if err != nil {
		return err
	}
	if err := b.pub.spool.Put(m); err != nil {
		return fmt.Errorf("publish endpoint record %s: %w", m.ID, err)
	}
	return nil
}

// PublishEndpointWait is PublishEndpoint for those who have time, such as a reader of a file: it
// waits for room until ctx ends. The record is not sent and not counted then.
func (b *Bus) PublishEndpointWait(ctx context.Context, r *attribute.Record) error {
	m, err := spooledRecord(r)
	if err != nil {
		return err
	}
	for {
		err := b.pub.spool.PutRoom(func(uint64) (*spool.Message, error) { return m, nil })
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrQueueFull) {
			return fmt.Errorf("publish endpoint record %s: %w", m.ID, err)
		}
		select {
		case <-b.pub.spool.Room():
		case <-ctx.Done():
			return fmt.Errorf("publish endpoint record %s: %w", m.ID, context.Cause(ctx))
		}
	}
}

// recordBytes is what most records need at most, encoded.
const recordBytes = 2 << 10

// spooledRecord returns r as the spool keeps it.
func spooledRecord(r *attribute.Record) (*spool.Message, error) {
	data, err := r.Append(make([]byte, 0, recordBytes))
	if err != nil {
		return nil, err
	}
	m := &spool.Message{
		Class: spool.Lead, ID: EndpointID(r), Subject: EndpointSubject(r.Kind, r.HostID), Data: data,
		Header: []spool.Field{{Key: "Content-Type", Value: "application/json"}, {Key: "Portolan-Schema", Value: attribute.Schema}},
	}
	if r.Kind == attribute.Host {
		m.Class = spool.Record
	}
	return m, nil
}
