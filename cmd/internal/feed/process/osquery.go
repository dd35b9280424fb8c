package process

import (
	"bytes"
	"time"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// osquerySlot knows the fields of a line of osquery's results log, in event format, with rows of
// socket_events or bpf_socket_events. All columns are text unless numerics is set.
func osquerySlot(path []byte) slot {
	switch string(path) {
	case "columns":
		return inside
	case "hostIdentifier":
		return host
	case "unixTime":
		return whenSeen
	case "action":
		return what2
	}
	rest, ok := bytes.CutPrefix(path, []byte("columns."))
	if !ok {
		return skip
	}
	switch string(rest) {
	case "time":
		return when
	case "action", "syscall":
		return what
	case "status", "exit_code":
		return outcome
	case "pid":
		return pid
	case "parent":
		return parentPID
	case "path":
		return executable
	case "uid":
		return uid
	case "auid":
		return loginUID
	case "protocol":
		return protocol
	case "local_address":
		return localIP
	case "local_port":
		return localPort
	case "remote_address":
		return remoteIP
	case "remote_port":
		return remotePort
	}
	return skip
}

// osquery makes a record of a row that tells of a connect. Times are whole seconds; those of
// bpf_socket_events may be the row's only, so unixTime, when it was logged, serves if there is none.
func (p *Parser) osquery(to feed.Sink) error {
	f := &p.fields
	if string(f.text(what)) != "connect" || string(f.text(what2)) == "removed" || len(f.text(remoteIP)) == 0 {
		return nil
	}
	at, ok := field.Seconds(f.text(when))
	if !ok || at < event.Time(time.Second) {
		at, _ = field.Seconds(f.text(whenSeen))
	}
	p.cannot |= feed.NoSubSecond
	r, addr, err := p.begin(Osquery, attribute.Connect, at)
	if err != nil {
		return err
	}
	if err := f.sockets(r); err != nil {
		return err
	}
	if r.Proto = f.transport(); r.Proto == 0 {
		r.Proto = feed.GuessProto(r.Remote)
	}
	switch b := f.text(outcome); string(b) {
	case "succeeded":
		ended(r, 0)
	case "in_progress":
		r.Proto, r.Result = event.TCP, attribute.InProgress
	case "failed", "no_status", "":
		// socket_events says failed of anything but 0 and EINPROGRESS, a refusal included.
	default:
		if e, ok := errnoOf(b); ok && !ended(r, e) {
			return nil
		}
	}
	p.hand(r, addr, to)
	return nil
}
