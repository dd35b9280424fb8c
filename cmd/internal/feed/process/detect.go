package process

import (
	"bytes"

	"portolan/cmd/internal/feed/jsonline"
)

// Detect returns a line's format by its content, Auto when it is none.
func Detect(line []byte) Format {
	var d detector
	return d.detect(line)
}

// Recognise returns the format of the first line of a file's beginning that has one, Auto when none has.
func Recognise(head []byte) Format {
	var d detector
	for line := range bytes.Lines(head) {
		if f := d.detect(line); f != Auto {
			return f
		}
	}
	return Auto
}

// detector looks for a format's marks. The zero value is ready.
type detector struct {
	walker jsonline.Walker
	found  Format
}

func (d *detector) detect(line []byte) Format {
	object := objectOf(line)
	if object == nil {
		switch {
		case bytes.Contains(line, []byte(eventTag)):
			return Sysmon
		case bytes.Contains(line, []byte("type=")) && bytes.Contains(line, []byte("audit(")):
			return Auditd
		}
		return Auto
	}
	if before := line[:bytes.IndexByte(line, '{')]; bytes.Contains(before, []byte("audit(")) {
		return Auditd // SADDR={ of an enriched record
	}
	if d.walker.Step == nil {
		d.walker.Step = d.step
	}
	d.found = Auto
	if ok, _ := d.walker.Walk(object); !ok {
		return Auto
	}
	if d.found == ECS && bytes.Contains(object, []byte(`winlog":`)) &&
		(bytes.Contains(object, []byte(`DestinationIp":`)) || bytes.Contains(object, []byte(`QueryName":`))) {
		return Sysmon // Winlogbeat without the ingest pipeline that makes ECS of it
	}
	return d.found
}

// step ends the walk at the first name at the top that gives a format away.
func (d *detector) step(name []byte) jsonline.Step {
	switch string(name) {
	case "process_kprobe", "process_lsm", "process_exec", "process_exit", "process_tracepoint", "process_uprobe",
		"process_loader", "process_throttle", "rate_limit_info", "node_name":
		d.found = Tetragon
	case "output_fields":
		d.found = Falco
	case "Event", "EventID":
		d.found = Sysmon
	case "@timestamp", "ecs", "ecs.version":
		d.found = ECS
	case "columns", "hostIdentifier", "snapshot", "diffResults":
		d.found = Osquery
	case "SYSCALL", "SOCKADDR", "PROCTITLE", "EXECVE":
		d.found = Laurel
	default:
		return jsonline.Pass
	}
	return jsonline.Stop
}
