package doctor

import (
	"fmt"
	"strings"

	"portolan/cmd/internal/bus"
)

const natsArea = "nats"

// Unreachable is the finding on a server that lets nobody in, with what mends it.
func Unreachable(err error, advice string) []Finding {
	return []Finding{{Area: natsArea, Check: "connection", Status: Bad, Evidence: err.Error(),
		Consequence: "hits wait on disk, up to the spool's bound, and no subscriber sees them", Advice: advice}}
}

// Embedded is the finding where the server is inside portolan run.
func Embedded(listen string) []Finding {
	where := "reached from inside only"
	if listen != "" {
		where = "listens on " + listen
	}
	return []Finding{{Area: natsArea, Check: "connection", Status: OK, Evidence: "the server is inside portolan run, and " + where}}
}

// NATS returns the findings on a server that was looked at.
func NATS(x *bus.Examination) []Finding {
	all := []Finding{{Area: natsArea, Check: "connection", Status: OK, Evidence: "connected to " + x.Server}}
	for _, s := range x.Streams {
		f := Finding{Area: natsArea, Check: "stream", Status: OK, Evidence: s.Name + " is there"}
		switch {
		case s.Missing:
			f.Status, f.Evidence = Warn, s.Name+" is missing"
			f.Consequence = "portolan run makes it if it may; else what belongs there waits in the spool"
			f.Remedy = "portolan nats streams --nats " + x.Server
		case s.Err != nil:
			f.Status, f.Evidence = Warn, s.Name+": "+s.Err.Error()
			f.Consequence = "whether it keeps what is published is not known"
			f.Advice = "add its STREAM.INFO to the sensor's permissions, as deploy/nats/portolan.conf has it"
		case len(s.Warnings) > 0:
			f.Status, f.Evidence = Warn, s.Name+": "+strings.Join(s.Warnings, "; ")
			f.Consequence = "it keeps less than subscribers count on"
			f.Remedy = "nats stream edit " + s.Name
		}
		all = append(all, f)
	}
	for _, p := range x.Publishing {
		f := Finding{Area: natsArea, Check: "permission", Status: OK, Evidence: fmt.Sprintf("%s may be published (%s)", p.What, p.Subject)}
		if p.Err != nil {
			f.Status, f.Evidence = Bad, fmt.Sprintf("%s: %v", p.What, p.Err)
			f.Consequence = p.What + " wait on disk, up to the spool's bound, and no subscriber sees them"
			f.Advice = fmt.Sprintf("allow this sensor to publish %q, and make the streams: deploy/nats/README.md", p.Subject)
		}
		all = append(all, f)
	}
	return all
}
