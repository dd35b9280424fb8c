package export

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
)

// column is one of a CSV file.
type column struct {
	name, what string
	of         func(*bus.Message) string
}

// columns returns all columns, in order. New ones come at the end.
func columns() []column {
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', 6, 64) }
	whole := func(n uint64) string { return strconv.FormatUint(n, 10) }
	return []column{
		{"time", "of the connection, UTC, RFC 3339", func(m *bus.Message) string { return m.Timestamp.UTC().Format(time.RFC3339Nano) }},
		{"level", "alert, watch or lead", func(m *bus.Message) string { return m.Portolan.Level }},
		{"client", "address that connected", func(m *bus.Message) string { return m.Source.IP.String() }},
		{"client_port", "0 when the source does not tell", func(m *bus.Message) string { return whole(uint64(m.Source.Port)) }},
		{"client_mac", "as the sensor saw it", func(m *bus.Message) string { return m.Source.MAC }},
		{"zone", "observation point and VLAN", func(m *bus.Message) string { return m.Portolan.Zone.Text }},
		{"destination", "address that was connected to", func(m *bus.Message) string { return m.Destination.IP.String() }},
		{"destination_port", "", func(m *bus.Message) string { return whole(uint64(m.Destination.Port)) }},
		{"transport", "tcp or udp", func(m *bus.Message) string { return m.Network.Transport }},
		{"community_id", "of the connection", func(m *bus.Message) string { return m.Network.CommunityID }},
		{"hypothesis", "id of the calculation", func(m *bus.Message) string { return m.Portolan.Calc.Hypothesis }},
		{"hypothesis_name", "", func(m *bus.Message) string { return m.Portolan.Calc.Name }},
		{"expression", "the arithmetic with the numbers put in", func(m *bus.Message) string { return m.Portolan.Calc.Expression }},
		{"e_value", "evidence; 1 is none", func(m *bus.Message) string { return number(m.Portolan.Calc.EValue) }},
		{"expected_false_per_day", "hits of this level that chance makes here", func(m *bus.Message) string { return number(m.Portolan.Calc.ExpectedFalsePerDay) }},
		{"lookup_name", "that was asked for", func(m *bus.Message) string { return m.Portolan.Lookup.Name }},
		{"lookup_answer", "empty for TXT", func(m *bus.Message) string {
			if !m.Portolan.Lookup.Answer.IsValid() {
				return ""
			}
			return m.Portolan.Lookup.Answer.String()
		}},
		{"lookup_time", "UTC, RFC 3339", func(m *bus.Message) string { return m.Portolan.Lookup.Time.UTC().Format(time.RFC3339Nano) }},
		{"lag_s", "from the answer to the connection, in seconds", func(m *bus.Message) string { return number(time.Duration(m.Portolan.Timing.LagNS).Seconds()) }},
		{"coverage", "verdict: good, partial, blind or unknown", func(m *bus.Message) string { return m.Portolan.Coverage.Verdict }},
		{"explained_share", "of the client's connections, from 0 to 1", func(m *bus.Message) string { return number(m.Portolan.Coverage.Client.Share) }},
		{"attribution", "status", func(m *bus.Message) string { return m.Portolan.Attribution.Status }},
		{"retro", "true when it was found afterwards, in an archive", func(m *bus.Message) string { return strconv.FormatBool(m.Portolan.Retro != nil) }},
		{"sensor", "", func(m *bus.Message) string { return m.Observer.Name }},
		{"hit_id", "", func(m *bus.Message) string { return m.Portolan.HitID }},
		{"revision", "", func(m *bus.Message) string { return whole(uint64(m.Portolan.Revision)) }},
	}
}

// WriteCSV writes hits as CSV (RFC 4180) with a line of names first.
func WriteCSV(w io.Writer, hits []*bus.Message) error {
	all := columns()
	out := csv.NewWriter(w)
	out.UseCRLF = true
	row := make([]string, len(all))
	for i, c := range all {
		row[i] = c.name
	}
	if err := out.Write(row); err != nil {
		return err
	}
	for _, m := range hits {
		for i, c := range all {
			row[i] = defuse(c.of(m))
		}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// ColumnHelp describes the columns, one a line.
func ColumnHelp() (lines []string) {
	for _, c := range columns() {
		line := c.name
		if c.what != "" {
			line += ": " + c.what
		}
		lines = append(lines, line)
	}
	return lines
}

// defuse puts an apostrophe before what a spreadsheet would take for a formula: names are what a stranger chose. Numbers here
// are never negative, so none begins like one.
func defuse(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", []rune(s)[0]) {
		return "'" + s
	}
	return s
}
