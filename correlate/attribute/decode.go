package attribute

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"portolan/sensor/event"
)

// Parse reads what Append writes into r, whatever was in it. Members it does not know are passed
// over; another major version, another type than the schema says, a number that does not fit, an
// address that is none, more than MaxRecord bytes are errors. Nothing in r aliases b.
func (r *Record) Parse(b []byte) error {
	*r = Record{}
	if len(b) > MaxRecord {
		return fmt.Errorf("endpoint record: %d bytes are more than %d", len(b), MaxRecord)
	}
	if !utf8.Valid(b) {
		return errors.New("endpoint record: is not UTF-8")
	}
	d := reader{s: string(b), fresh: true}
	r.read(&d)
	if d.space(); d.err == nil && d.at < len(d.s) {
		d.fail("more behind its end")
	}
	if d.err == nil {
		d.err = d.finish(r)
	}
	if d.err == nil {
		d.err = r.Validate()
	}
	if d.err != nil {
		return fmt.Errorf("endpoint record: %w", d.err)
	}
	return nil
}

// finish checks what the order of members leaves to the end.
func (d *reader) finish(r *Record) error {
	major := Schema[:strings.LastIndexByte(Schema, '.')]
	if !strings.HasPrefix(d.schema, major+".") {
		return fmt.Errorf("schema %q is not %s.x", brief(d.schema), major)
	}
	switch d.kind {
	case Connect.String():
	case Lookup.String():
		r.Kind = Lookup
	case Host.String():
		r.Kind = Host
		d.about.Addresses = d.addresses
		r.About = &d.about
	default:
		return fmt.Errorf("kind %q is not connect, lookup or host", brief(d.kind))
	}
	r.Query = strings.ToLower(strings.TrimSuffix(r.Query, "."))
	return nil
}

func (r *Record) read(d *reader) {
	p := &r.Process
	for d.members() {
		switch d.key {
		case "@timestamp":
			r.Time = d.time()
		case "event":
			for d.members() {
				if d.key == "id" {
					r.ID = d.text()
				} else {
					d.skip()
				}
			}
		case "host":
			r.readHost(d)
		case "source":
			r.Local = d.socket()
		case "destination":
			r.Remote = d.socket()
		case "network":
			r.readNetwork(d)
		case "dns":
			for d.members() {
				if d.key != "question" {
					d.skip()
					continue
				}
				for d.members() {
					if d.key == "name" {
						r.Query = d.text()
					} else {
						d.skip()
					}
				}
			}
		case "process":
			p.read(d)
		case "user":
			for d.members() {
				switch d.key {
				case "id":
					p.UID, p.HasUID = d.uid(), true
				case "name":
					p.User = d.text()
				default:
					d.skip()
				}
			}
		case "container":
			for d.members() {
				switch d.key {
				case "id":
					p.ContainerID = d.text()
				case "name":
					p.Container = d.text()
				default:
					d.skip()
				}
			}
		case "portolan":
			for d.members() {
				switch d.key {
				case "schema":
					d.schema = d.text()
				case "endpoint":
					r.readEndpoint(d)
				default:
					d.skip()
				}
			}
		default:
			d.skip()
		}
	}
}

func (r *Record) readHost(d *reader) {
	for d.members() {
		switch d.key {
		case "id":
			r.HostID = d.text()
		case "name":
			r.Host = d.text()
		case "ip":
			for d.items() {
				d.addresses = append(d.addresses, d.addr())
			}
		case "os":
			for d.members() {
				if d.key == "kernel" {
					d.about.Kernel = d.text()
				} else {
					d.skip()
				}
			}
		default:
			d.skip()
		}
	}
}

func (r *Record) readNetwork(d *reader) {
	for d.members() {
		switch d.key {
		case "transport":
			switch t := d.text(); t {
			case "tcp":
				r.Proto = event.TCP
			case "udp":
				r.Proto = event.UDP
			default:
				d.fail("transport %q: want tcp or udp", brief(t))
			}
		case "community_id":
			r.CommunityID = d.text()
		default:
			d.skip()
		}
	}
}

func (r *Record) readEndpoint(d *reader) {
	p, a := &r.Process, &d.about
	for d.members() {
		switch d.key {
		case "kind":
			d.kind = d.text()
		case "source":
			r.Source = d.text()
		case "result":
			r.Result = Result(d.text())
		case "errno":
			r.Errno = uint16(d.uint(1<<16 - 1))
		case "login_uid":
			p.LoginUID, p.HasLoginUID = uint32(d.uint(1<<32-1)), true
		case "cgroup":
			p.Cgroup = d.text()
		case "netns":
			p.NetNS = d.uint(1<<64 - 1)
		case "boot":
			a.Boot = d.time()
		case "interval_ns":
			a.Interval = int64(d.uint(1<<63 - 1))
		case "agent":
			a.Agent = d.text()
		case "sees":
			a.Sees = d.texts()
		case "blind":
			a.Blind = d.texts()
		case "lost":
			a.Lost = d.uint(1<<64 - 1)
		case "refused":
			a.Refused = d.uint(1<<64 - 1)
		default:
			d.skip()
		}
	}
}

func (p *Process) read(d *reader) {
	for d.members() {
		switch d.key {
		case "pid":
			p.PID = uint32(d.uint(1<<32 - 1))
		case "start":
			p.Start = d.time()
		case "name":
			p.Name = d.text()
		case "executable":
			p.Executable = d.text()
		case "working_directory":
			p.Dir = d.text()
		case "hash":
			for d.members() {
				if d.key == "sha256" {
					p.SHA256 = d.text()
				} else {
					d.skip()
				}
			}
		case "args":
			p.Args = d.texts()
		case "parent":
			q := &p.Parent
			for d.members() {
				switch d.key {
				case "pid":
					q.PID = uint32(d.uint(1<<32 - 1))
				case "start":
					q.Start = d.time()
				case "name":
					q.Name = d.text()
				case "executable":
					q.Executable = d.text()
				default:
					d.skip()
				}
			}
		default:
			d.skip()
		}
	}
}
