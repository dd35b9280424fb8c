package bus

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

var update = flag.Bool("update", false, "rewrite the golden messages in testdata/hit")

const goldenDir = "../../../testdata/hit"

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// start is the connection time of the test hits.
var start = event.TimeOf(time.Date(2026, 3, 14, 9, 26, 53, 589793238, time.UTC))

// testID returns an ID that begins with n.
func testID(n byte) (id correlate.ID) {
	for i := range id {
		id[i] = n + byte(i)*17
	}
	return id
}

// halfSwap is an alert on a calculated destination: the family of 2026.
func halfSwap() *correlate.Hit {
	src, dst := netip.MustParseAddrPort("10.0.0.7:40112"), netip.MustParseAddrPort("45.156.87.243:5123")
	zone := event.Zone{Point: 1, Kind: event.VLAN, ID: 12}
	return &correlate.Hit{
		ID: testID(1), Revision: 1, State: correlate.Provisional, Level: correlate.Alert,
		Zone: zone, Client: src.Addr(),
		Connection: event.Connection{
			Time: start, Zone: zone, Src: src, Dst: dst, MAC: event.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}, Proto: event.TCP,
		},
		Lookup: correlate.Source{
			Time: start.Add(-3100 * time.Microsecond), Lag: 3100 * time.Microsecond, Name: "cdn.example",
			Answer: addr("87.243.45.156"), Via: "a", TTL: 300, Server: netip.MustParseAddrPort("10.0.0.53:53"),
		},
		Calc: correlate.Calc{
			Kind: correlate.Address,
			Match: correlate.Match{
				Hypothesis: "A1", Name: "half-swap", Expression: "87.243|45.156 → 45.156|87.243 = 45.156.87.243",
				Operand: addr("87.243.45.156"), EValue: 2.1e8,
			},
			EValue: 2.3e8, Chance: 4.4e-9, Hypotheses: 57, Answers: 3, SupportTrials: 2, SupportAnswers: 2,
		},
		Baseline: correlate.Baseline{Model: "fixed-prior", Chance: 2.3e-10, Trials: 18},
		Coverage: correlate.Coverage{Connections: 19, Explained: 17, Lookups: 41},
	}
}

// mulAdd is a watch on a calculated port: APT12.
func mulAdd() *correlate.Hit {
	h := halfSwap()
	h.ID, h.State, h.Level = testID(2), correlate.Final, correlate.Watch
	h.Zone = event.Zone{}
	h.Connection.Zone = h.Zone
	h.Connection.Dst = netip.MustParseAddrPort("198.51.100.23:10198")
	h.Lookup.Answer = addr("198.51.100.23")
	h.Calc = correlate.Calc{
		Kind: correlate.Port,
		Match: correlate.Match{
			Hypothesis: "P1", Name: "mul-add", Expression: "198·51+100 = 10198", Operand: addr("198.51.100.23"), EValue: 4100,
		},
		EValue: 4200, Chance: 3.3e-4, Hypotheses: 34, Answers: 1, SupportTrials: 1, SupportAnswers: 1,
		Alternatives: []correlate.Match{{
			Hypothesis: "M3", Name: "mod", Expression: "x mod 65535 = 10198", Operand: addr("198.51.100.23"), EValue: 12,
		}},
	}
	h.Baseline.Chance = 1.1e-5
	return h
}

// goldenHits are the hits whose messages stand in testdata/hit, by file name.
func goldenHits() map[string]*correlate.Hit {
	port := mulAdd()
	port.ID, port.Level, port.State = testID(3), correlate.Alert, correlate.Provisional
	port.Calc.EValue, port.Calc.SupportTrials, port.Calc.SupportAnswers = 7.7e6, 2, 2

	retracted := halfSwap()
	retracted.Revision, retracted.State = 2, correlate.Retracted

	v6 := mulAdd()
	v6.ID, v6.Level = testID(4), correlate.Alert
	v6.Client = addr("2001:db8::7")
	v6.Connection.Src = netip.MustParseAddrPort("[2001:db8::7]:40112")
	v6.Connection.Dst = netip.MustParseAddrPort("[2001:db8:0:1::5:30ab]:12459")
	v6.Lookup.Answer, v6.Lookup.Via = addr("2001:db8:0:1::5:30ab"), "aaaa"
	v6.Lookup.Server = netip.MustParseAddrPort("[2001:db8::53]:53")
	v6.Calc = correlate.Calc{
		Kind: correlate.Port,
		Match: correlate.Match{
			Hypothesis: "V6", Name: "group", Expression: "group 8 = 0x30ab = 12459", Operand: v6.Lookup.Answer, EValue: 2.0e6,
		},
		EValue: 2.0e6, Chance: 5.2e-4, Hypotheses: 34, Answers: 2, SupportTrials: 3, SupportAnswers: 3,
	}

	txt := halfSwap()
	txt.ID = testID(5)
	txt.Connection.Dst = netip.MustParseAddrPort("203.0.113.9:53")
	txt.Connection.Proto, txt.Connection.Start = event.UDP, event.Datagram
	txt.Lookup.Name, txt.Lookup.Answer, txt.Lookup.Via = "k.cdn.example", netip.Addr{}, "txt-base64"
	txt.Calc.Match = correlate.Match{
		Hypothesis: "A3", Name: "xor-known", Expression: "1.254.203.183 xor ca.fe.ba.be = 203.0.113.9",
		Operand: addr("1.254.203.183"), EValue: math.Inf(1),
	}
	txt.Calc.EValue = math.Inf(1)

	host := halfSwap()
	host.ID = testID(6)

	return map[string]*correlate.Hit{
		"alert-host": host, "alert-address": halfSwap(), "alert-port": port, "watch-port": mulAdd(), "retracted": retracted,
		"alert-ipv6": v6, "alert-txt": txt,
	}
}

// testContext is what a sensor on eth1 says.
func testContext() Context {
	return Context{
		Sensor: "dmz-1", Version: "1.0.0", Device: "eth1", Created: start.Add(4 * time.Millisecond).UTC(), Sequence: 7,
		ExpectedFalsePerDay: 0.0021, Verdict: Partial, Why: []string{"TCP is seen from clients only"},
		Loss:       Loss{Ring: 12, Unknown: []string{"nic"}},
		Directions: Directions{DNS: Both, TCP: FromClient},
	}
}

// testHolder is a host that asked for a lease, behind a router.
func testHolder() attribute.HostHolder {
	return attribute.HostHolder{
		MAC: event.MAC{0x52, 0x54, 0, 0xab, 0xcd, 0xef}, Via: event.DHCP, Since: start.Add(-time.Hour), Last: start.Add(-time.Minute),
		Lease: start.Add(time.Hour),
		Names: []attribute.HostName{
			{Text: "lab-pc7", Via: event.DHCP, Seen: start.Add(-time.Hour)},
			{Text: "lab-pc7.local", Via: event.MDNS, Seen: start.Add(-2 * time.Hour)},
		},
	}
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(filepath.Join(goldenDir, "portolan.hit-1.0.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(s *jsonschema.Schema, b []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// indent returns b as it stands in a golden file.
func indent(t *testing.T, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := json.Indent(&buf, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	buf.WriteByte('\n')
	return buf.Bytes()
}

func TestGoldenMessages(t *testing.T) {
	s := schema(t)
	hits := goldenHits()
	hits["retro"] = halfSwap()
	for name, h := range hits {
		t.Run(name, func(t *testing.T) {
			c := testContext()
			if name == "alert-host" {
				c.Holder = testHolder()
				c.Client.NAT = "its SYNs come by turns with TTL 63 (64 less 1), 127 (128 less 1)"
			}
			if name == "retro" { // the context makes it one
				c.Retro = testRetro()
				h.Revision = c.Retro.Revision()
			}
			m := NewMessage(h, c)
			b, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := m.WriteText(&text, false); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", indent(t, b))
			golden(t, name+".txt", text.Bytes())
			if err := validate(s, b); err != nil {
				t.Errorf("the schema refuses the message: %v", err)
			}
			back, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			again, err := back.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, b) {
				t.Errorf("decoded and encoded again:\n%s\nwant\n%s", again, b)
			}
		})
	}
}

// testRetro is what a hunt through a month says.
func testRetro() *Retro {
	return &Retro{
		Began: time.Date(2026, 4, 1, 7, 0, 0, 0, time.UTC), From: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 3, 31, 23, 59, 59, 0, time.UTC),
		Sources: []RetroSource{{Name: "logs/zeek", Kind: "zeek", Limits: []string{"no VLANs"}}, {Name: "egress", Kind: "capture"}},
	}
}

// golden compares got with a file of testdata/hit, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join(goldenDir, name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// Messages that were golden once validate for ever, also those that no test makes any more.
func TestGoldenFilesValidate(t *testing.T) {
	s := schema(t)
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if strings.HasSuffix(f, ".schema.json") {
			continue
		}
		n++
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(s, b); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if _, err := Decode(b); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	if n == 0 {
		t.Fatalf("no messages in %s", goldenDir)
	}
}

// The schema is strict where the names are ours, and says no to what subscribers must never see.
func TestSchemaRefuses(t *testing.T) {
	s := schema(t)
	b, err := NewMessage(halfSwap(), testContext()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, old, new string }{
		{"no coverage", `"coverage":`, `"cover":`},
		{"no verdict", `"verdict":"partial"`, `"verdict":"fine"`},
		{"unknown level", `"level":"alert"`, `"level":"panic"`},
		{"level none that is not retracted", `"level":"alert"`, `"level":"none"`},
		{"revision 0", `"revision":1`, `"revision":0`},
		{"upper case id", `"hit_id":"01`, `"hit_id":"ZZ`},
		{"chance above 1", `"chance":4.4e-9`, `"chance":44`},
		{"another technique", `T1568.003"]`, `T1568.002"]`},
		{"address that is none", `"ip":"10.0.0.7"`, `"ip":"10.0.0.777"`},
		{"another schema", `portolan.hit/1.0`, `portolan.hit/2.0`},
		{"no support", `"support":`, `"backing":`},
		{"time without zone", `"start":"2026-03-14T09:26:53.589793238Z"`, `"start":"2026-03-14T09:26:53.589793238"`},
		{"Community ID of no version", `"community_id":"1:`, `"community_id":"0:`},
	}
	for _, tt := range tests {
		changed := strings.ReplaceAll(string(b), tt.old, tt.new)
		if changed == string(b) {
			t.Errorf("%s: %s does not stand in the message", tt.name, tt.old)
		}
		if validate(s, []byte(changed)) == nil {
			t.Errorf("%s: the schema accepts %s", tt.name, tt.new)
		}
	}
	added := strings.Replace(string(b), `"portolan":{`, `"portolan":{"new_in_1_1":true,`, 1)
	if err := validate(s, []byte(added)); err != nil {
		t.Errorf("a minor version may add members: %v", err)
	}
	if _, err := Decode([]byte(added)); err != nil {
		t.Errorf("a minor version may add members: %v", err)
	}
}

// A hit with nothing filled in but what every hit has.
func TestBareHit(t *testing.T) {
	h := &correlate.Hit{
		Revision: 1, Level: correlate.Lead, Client: addr("192.0.2.1"),
		Connection: event.Connection{
			Src: netip.MustParseAddrPort("192.0.2.1:1"), Dst: netip.MustParseAddrPort("192.0.2.2:2"), Proto: event.UDP,
		},
		Lookup: correlate.Source{Via: "a", Answer: addr("192.0.2.3")},
		Calc:   correlate.Calc{Match: correlate.Match{Hypothesis: "L1", Name: "unexplained"}},
	}
	m := NewMessage(h, Context{})
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(schema(t), b); err != nil {
		t.Error(err)
	}
	if v := m.Portolan.Coverage; v.Verdict != Unknown || v.Directions != (Directions{Unknown, Unknown}) {
		t.Errorf("coverage of an empty context = %+v, want all unknown", v)
	}
}

// hostile is a hit with every text as long and as nasty as it comes.
func hostile() *correlate.Hit {
	h := halfSwap()
	nasty := strings.Repeat("\x1b[31m\x00\xff\u202e<&>\"\\\n", 4000)
	h.Lookup.Name, h.Lookup.Via = nasty, nasty
	h.Calc.Name, h.Calc.Expression, h.Calc.Hypothesis, h.Baseline.Model = nasty, nasty, nasty, nasty
	h.Calc.EValue, h.Calc.Match.EValue, h.Calc.Chance = math.Inf(1), math.NaN(), math.NaN()
	h.Baseline.Chance = math.Inf(1)
	for range 1000 {
		h.Calc.Alternatives = append(h.Calc.Alternatives, h.Calc.Match)
	}
	return h
}

func hostileContext() Context {
	c := testContext()
	nasty := hostile().Lookup.Name
	c.Sensor, c.Version, c.Device, c.ExpectedFalseBasis = nasty, nasty, nasty, nasty
	c.ExpectedFalsePerDay = math.Inf(-1)
	for range 1000 {
		c.Why = append(c.Why, nasty)
		c.Loss.Unknown = append(c.Loss.Unknown, nasty)
	}
	return c
}

func TestMessageIsBounded(t *testing.T) {
	m := NewMessage(hostile(), hostileContext())
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > MaxMessage {
		t.Errorf("%d bytes, want at most %d", len(b), MaxMessage)
	}
	if n := len(m.Portolan.Calc.Alternatives); n != maxAlternatives {
		t.Errorf("%d alternatives, want %d", n, maxAlternatives)
	}
	if _, err := Decode(b); err != nil {
		t.Error(err)
	}
	if err := ValidateSensor(m.Observer.Name); err != nil {
		t.Error(err)
	}
}

// No control character of a name or of a decoded message may reach a terminal.
func TestTextIsHarmless(t *testing.T) {
	made := NewMessage(hostile(), hostileContext())
	decoded := NewMessage(halfSwap(), testContext())
	nasty := hostile().Lookup.Name
	p := &decoded.Portolan
	p.HitID, p.Level, p.State, p.Lookup.Name, p.Lookup.Via, p.Zone.Text = nasty, nasty, nasty, nasty, nasty, nasty
	p.Calc.Name, p.Calc.Expression, p.Calc.Hypothesis, p.Baseline.Model = nasty, nasty, nasty, nasty
	p.Coverage.Verdict, p.Coverage.Why, p.Coverage.Loss.Unknown = nasty, []string{nasty}, []string{nasty}
	p.Coverage.Directions.DNS, p.Attribution.Status, p.Attribution.Reason = nasty, nasty, nasty
	p.Calc.EValueLog10, p.Calc.Chance, p.Baseline.Chance = math.Inf(1), math.NaN(), math.Inf(-1)
	p.Attribution.Host = &Holder{MAC: nasty, Via: nasty, Contested: true, Names: []HostName{{Name: nasty, Via: nasty}}}
	decoded.Observer.Name, decoded.Source.MAC, decoded.Network.Transport = nasty, nasty, nasty
	decoded.Source.IP = addr("fe80::1").WithZone(nasty)
	decoded.Destination.IP = addr("fe80::2").WithZone(nasty)
	p.Lookup.Answer = addr("fe80::3").WithZone(nasty)
	p.Lookup.Resolver = netip.AddrPortFrom(addr("fe80::4").WithZone(nasty), 53)
	for _, m := range []*Message{made, decoded} {
		var text bytes.Buffer
		if err := m.WriteText(&text, false); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text.String()) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > textWidth {
				t.Errorf("%d columns, want at most %d: %q", n, textWidth, line)
			}
			for _, r := range line {
				if r < ' ' || r == 0x7f || r == utf8.RuneError || r == 0x202e {
					t.Errorf("%q holds %q", line, r)
					break
				}
			}
		}
	}
}

func TestTextColour(t *testing.T) {
	var plain, colour bytes.Buffer
	m := NewMessage(halfSwap(), testContext())
	if err := m.WriteText(&plain, false); err != nil {
		t.Fatal(err)
	}
	if err := m.WriteText(&colour, true); err != nil {
		t.Fatal(err)
	}
	stripped := colour.String()
	for _, code := range []string{ansiBold, ansiDim, ansiRed, ansiYellow, ansiCyan, ansiReset} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if stripped != plain.String() {
		t.Errorf("without its colours the text is\n%s\nwant\n%s", stripped, plain.String())
	}
	if !strings.HasPrefix(colour.String(), ansiRed+"ALERT"+ansiReset) {
		t.Errorf("an alert does not begin in red: %q", colour.String()[:40])
	}
}

func TestEValue(t *testing.T) {
	for _, tt := range []struct{ e, value, log10 float64 }{
		{1e6, 1e6, 6},
		{0.1, 0.1, -1},
		{1e300, maxEValue, 300},
		{math.Inf(1), maxEValue, math.Log10(math.MaxFloat64)},
		{0, 0, math.Log10(math.SmallestNonzeroFloat64)},
		{math.NaN(), 0, math.Log10(math.SmallestNonzeroFloat64)},
		{-1, 0, math.Log10(math.SmallestNonzeroFloat64)},
	} {
		if v, l := eValue(tt.e); v != tt.value || math.Abs(l-tt.log10) > 1e-9 {
			t.Errorf("eValue(%g) = %g, %g, want %g, %g", tt.e, v, l, tt.value, tt.log10)
		}
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{trialsText(1.0 / 3.4e6), "1 in 3.4 million trials"},
		{trialsText(4.4e-9), "1 in 227 million trials"},
		{trialsText(3.3e-4), "1 in 3,030 trials"},
		{trialsText(1 / 999999.9), "1 in 1 million trials"},
		{trialsText(1e-17), "1 in 1.0·10^17 trials"},
		{trialsText(0.3), "1 in 3.3 trials"},
		{trialsText(1), "every other trial or more"},
		{trialsText(0), "an unknown share of trials"},
		{powerText(8.361728), "2.3·10^8"},
		{powerText(3.6232), "4,200"},
		{powerText(-4), "1.0·10^-4"},
		{powerText(5.99999999), "1.0·10^6"},
		{lagText(3100 * time.Microsecond), "3.1 ms"},
		{lagText(341 * time.Second), "341 s"},
		{lagText(2 * time.Hour), "7200 s"},
		{lagText(-2 * time.Millisecond), "-2 ms"},
		{lagText(12), "12 ns"},
		{plural(1, "hypothesis"), "1 hypothesis"},
		{plural(1234567, "hypothesis"), "1,234,567 hypotheses"},
		{plural(0, "answer"), "0 answers"},
		{perDayText(0.0021, "alert"), "one such alert in 476 days"},
		{perDayText(3, "lead"), "3 such leads a day"},
		{perDayText(1e-9, "alert"), "one such alert in 2.7 million years"},
		{middle("abcdefghij", 5), "ab…ij"},
		{cut("aöü", 4), "a…"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := NewMessage(halfSwap(), testContext()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"no JSON", "{", "", "decode hit: "},
		{"another major version", "portolan.hit/1.0", "portolan.hit/2.0", `schema "portolan.hit/2.0" is not portolan.hit/1.x`},
		{"10 is not 1", "portolan.hit/1.0", "portolan.hit/10.0", "is not portolan.hit/1.x"},
		{"id", `"hit_id":"01`, `"hit_id":"`, "32 hex digits"},
		{"revision", `"revision":1`, `"revision":0`, "revisions count from 1"},
		{"no client", `"source":{"ip":"10.0.0.7"`, `"source":{"ip":""`, "source.ip"},
		{"too long", `"message":"`, `"message":"` + strings.Repeat(" ", MaxMessage), "are more than 65536"},
	} {
		bad := strings.Replace(string(good), tt.old, tt.new, 1)
		if _, err := Decode([]byte(bad)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error of several lines: %q", tt.name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, h := range goldenHits() {
		b, err := NewMessage(h, testContext()).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		var text bytes.Buffer
		if err := m.WriteText(&text, false); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > textWidth {
				t.Errorf("%d columns: %q", n, line)
			}
		}
	})
}

func BenchmarkPublishable(b *testing.B) {
	h, c := halfSwap(), testContext()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewMessage(h, c).Envelope(); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleMessage_WriteText() {
	m := NewMessage(mulAdd(), testContext())
	if err := m.WriteText(os.Stdout, false); err != nil {
		fmt.Println(err)
	}
	// Output:
	// WATCH  10.0.0.7 → 198.51.100.23:10198/tcp   mul-add of an answer for cdn.example
	//   when       2026-03-14 09:26:53.589793238 UTC, 3.1 ms after the answer (TTL 300 s)
	//   client     10.0.0.7 port 40112, zone 0, MAC 52-54-00-12-34-56
	//   lookup     cdn.example → A 198.51.100.23, by 10.0.0.53:53
	//   arithmetic 198·51+100 = 10198   [P1 mul-add]
	//   also fits  M3 mod
	//   chance     at most 1 in 3,030 trials match by chance; tried 34 hypotheses on 1 answer
	//   evidence   e-value 4,200; expected by chance, at most: one such watch in 476 days
	//   baseline   port 10198: 1 in 90,909 trials (fixed-prior, 18 trials before)
	//   coverage   partial (TCP is seen from clients only); lost 12 at ring (not known: nic); DNS both
	//              ways, TCP from clients only; a lookup explains 17 of this client's 19 connections (89%)
	//   hit        02132435465768798a9bacbdcedff001 revision 1, final, by dmz-1
}
