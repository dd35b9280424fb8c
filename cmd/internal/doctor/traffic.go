package doctor

import (
	"fmt"
	"strings"
	"time"

	"portolan/cmd/internal/coverage"
)

const trafficArea = "traffic"

// mending says what mends each rule of coverage: what to do elsewhere, and a command for this host, in which
// DEVICE stands for the device's name. A rule that is missing has nothing that could be mended.
var mending = map[string]struct{ advice, command string }{
	"link.down":           {"check the cable and the switch's port", "ip -s link show DEVICE"},
	"mirror.silent":       {"check the SPAN session on the switch", "sudo tcpdump -c 5 -ni DEVICE"},
	"loss.nic":            {"", "sudo ethtool -G DEVICE rx $(ethtool -g DEVICE | awk '/^RX:/{print $2; exit}')"},
	"loss.ring":           {"", "sudo portolan run -i DEVICE --prefilter ebpf"},
	"loss.decoder":        {"fewer clients for each sensor: split the mirror", ""},
	"loss.correlator":     {"", "sudo portolan run -i DEVICE --memory 1GiB"},
	"loss.messages":       {"", "sudo portolan run -i DEVICE --spool 2GiB"},
	"mirror.one-way":      {bothWays, ""},
	"dns.none":            {"mirror the port between clients and their resolver", "sudo tcpdump -c 5 -ni DEVICE port 53"},
	"dns.answers-missing": {bothWays, "sudo tcpdump -c 5 -ni DEVICE src port 53"},
	"dns.answers-only":    {bothWays, "sudo tcpdump -c 5 -ni DEVICE dst port 53"},
	"dns.resolver-side":   {clientSide, ""},
	"dns.elsewhere": {"let clients ask a resolver that is seen: block port 853, and have it answer use-application-dns.net with NXDOMAIN",
		"sudo tcpdump -c 20 -ni DEVICE port 853"},
	"dns.unexplained":   {clientSide + ", and let clients ask none other", ""},
	"tcp.one-way":       {bothWays, ""},
	"mirror.duplicates": {"mirror the VLAN, or one of the ports that a packet crosses, and not both", ""},
	"frames.truncated":  {"take the truncation out of the SPAN session", "sudo ip link set DEVICE mtu 9216"},
	"frames.merged":     {"switch merging off where frames are captured", "sudo ethtool -K DEVICE gro off lro off"},
	"clock.step":        {"have the clock slewed, not set", "sudo timedatectl set-ntp true"},
	"zone.split":        {"mirror both directions with their VLAN tags (encapsulation replicate)", ""},
	"zone.shared":       {"mirror with VLAN tags (encapsulation replicate)", ""},
	"client.resolver":   {clientSide, ""},
	"nat.suspected":     {"mirror the inside of the gateway that translates addresses, or name both sides with \"portolan enrich --nat INSIDE=OUTSIDE\"", ""},
	"tunnel.opaque":     {"mirror where the tunnel ends, or name the port of VXLAN with --vxlan-ports", ""},
	"order.late":        {"", "sudo portolan run -i DEVICE --hold 5s"},
	"selftest.failed":   {"", "sudo portolan selftest -i DEVICE"},
	"records.beside":    {"mirror the DNS as well, so that lookups are seen and not only told of", ""},
	"records.limits":    {"have the program that writes the records log the rest, or add a source that holds it", ""},
	"file.incomplete":   {"capture anew, and let the program that writes the file end by itself", ""},
}

const (
	bothWays   = "mirror both directions of the port or VLAN (monitor session 1 source … both)"
	clientSide = "mirror the client side of the resolver: the port or VLAN that the clients are on"
)

// Watched is what was seen of a device, or in files.
type Watched struct {
	Device  string // "" for files
	Span    time.Duration
	Counts  *coverage.Counts
	View    *coverage.View
	Counter string // what counted frames lost at the adapter; "" for files
	Filter  string // what filtered in the kernel
	Lag     time.Duration
}

// Traffic returns what the rules of coverage, the same as those of hits and records, say of what was seen.
func (w *Watched) Traffic(a *coverage.Assessment) []Finding {
	all := []Finding{w.verdict(a)}
	if w.Device != "" {
		all = append(all, w.stamps())
		if !a.Has("loss.nic") && !a.Has("loss.ring") {
			all = append(all, Finding{Area: trafficArea, Check: "loss", Status: OK, Evidence: fmt.Sprintf(
				"%d frames lost at the adapter (%s), %d at the ring, of %d", w.Counts.Loss.NIC, w.Counter, w.Counts.Loss.Ring, w.Counts.Frames)})
		}
		all = append(all, Finding{Area: trafficArea, Check: "filter", Status: OK, Evidence: w.Filter})
	}
	all = append(all, w.zones())
	for _, f := range a.Findings {
		if w.Counts.Frames == 0 && w.Device != "" {
			break // the verdict says it all
		}
		x := Finding{Area: trafficArea, Check: f.Rule, Evidence: f.Evidence, Consequence: f.Consequence}
		switch f.Severity {
		case coverage.Disables:
			x.Status = Bad
		case coverage.Limits:
			x.Status = Warn
		default:
			x.Status = OK
		}
		if x.Status != OK {
			x.Advice, x.Remedy = mend(f.Rule, w.Device)
		}
		all = append(all, x)
	}
	return all
}

// stamps compares the stamps of frames with the clock.
func (w *Watched) stamps() Finding {
	f := Finding{Area: trafficArea, Check: "stamps", Status: OK, Evidence: fmt.Sprintf("the newest frame is stamped %v ago", w.Lag.Round(time.Millisecond))}
	switch {
	case w.Counts.Frames == 0:
		f.Status, f.Evidence = Unknown, "no frame to compare with the clock"
	case w.Lag < -time.Second:
		f.Status, f.Evidence = Warn, fmt.Sprintf("the newest frame is stamped %v ahead of the clock", -w.Lag.Round(time.Millisecond))
		f.Consequence = "the clock was set, or the adapter stamps by another: what came first is not known"
		f.Remedy = "sudo timedatectl set-ntp true"
	}
	return f
}

// zones tells which VLANs and tunnels there are.
func (w *Watched) zones() Finding {
	f := Finding{Area: trafficArea, Check: "zones", Status: OK}
	var names []string
	for i := range w.View.Zones {
		z := &w.View.Zones[i]
		if len(names) == 6 {
			names = append(names, fmt.Sprintf("%d more", len(w.View.Zones)-6))
			break
		}
		names = append(names, fmt.Sprintf("%s (%d lookups, %d connections)", z.Zone, z.Lookups, z.SYN+z.SYNACK+z.Datagrams))
	}
	f.Evidence = list(names)
	return f
}

// mend returns what mends a rule of coverage. Of a file nothing on this host can be.
func mend(rule, device string) (advice, command string) {
	m := mending[rule]
	if device == "" {
		return m.advice, ""
	}
	return m.advice, strings.ReplaceAll(m.command, "DEVICE", device)
}

// verdict tells what there was, and what it is worth.
func (w *Watched) verdict(a *coverage.Assessment) Finding {
	n, d := w.Counts, &w.Counts.Decoder
	f := Finding{Area: trafficArea, Check: "verdict", Evidence: fmt.Sprintf(
		"%s: %d frames; DNS %d queries, %d answers; TCP %d SYN, %d SYN+ACK; a lookup explains %d of %d connections",
		strings.ToUpper(string(a.Verdict)), n.Frames, d.Queries, d.Responses, d.SYN, d.SYNACK, n.Explained, n.Settled)}
	if w.Span > 0 && d.Responses > 0 {
		f.Evidence += fmt.Sprintf("; %.3g answers/s", float64(d.Responses)/w.Span.Seconds())
	}
	switch a.Verdict {
	case coverage.Good:
		f.Status = OK
	case coverage.Partial:
		f.Status = Warn
	default:
		f.Status = Bad
	}
	if n.Frames == 0 && w.Device != "" {
		f.Status, f.Evidence = Bad, fmt.Sprintf("BLIND: no frame in %v", w.Span.Round(time.Second))
		f.Consequence = "that nothing is found means nothing"
		f.Advice, f.Remedy = mend("mirror.silent", w.Device)
	}
	return f
}
