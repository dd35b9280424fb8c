package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"portolan/cmd/internal/bus"
)

// goldenHits returns the messages in testdata/hit, by file name, also as they stand there.
func goldenHits(t *testing.T) (hits map[string]*bus.Message, raw map[string]map[string]any) {
	t.Helper()
	files, err := filepath.Glob("../../../testdata/hit/*.json")
	if err != nil {
		t.Fatal(err)
	}
	hits, raw = map[string]*bus.Message{}, map[string]map[string]any{}
	for _, f := range files {
		if strings.HasSuffix(f, ".schema.json") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		if hits[name], err = bus.Decode(b); err != nil {
			t.Fatal(err)
		}
		raw[name] = m
	}
	if len(hits) < 5 {
		t.Fatalf("%d golden hits", len(hits))
	}
	return hits, raw
}

func inOrder(hits map[string]*bus.Message) (all []*bus.Message) {
	for _, m := range hits {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *bus.Message) int {
		return strings.Compare(a.Portolan.HitID+a.Portolan.State, b.Portolan.HitID+b.Portolan.State)
	})
	return all
}

// Identifiers of observed things are those that other implementations make: the first stands in the documentation of
// python-stix2.
func TestObservedIdentifiers(t *testing.T) {
	for value, want := range map[string]string{
		"177.60.40.7": "ipv4-addr--dc63603e-e634-5357-b239-d4b562bc5445",
		"8.8.8.8":     "ipv4-addr--2f689bf9-0ff2-545f-aa61-e495eb8cecc7",
	} {
		kind, _, _ := strings.Cut(want, "--")
		o, err := observed(kind, stixObject{"value": value})
		if err != nil {
			t.Fatal(err)
		}
		if o.id() != want {
			t.Errorf("%s is %s, want %s", value, o.id(), want)
		}
	}
}

// required lists for each type of object the properties that STIX 2.1 asks for besides the common ones (sections 4 to 6),
// and optional those that it allows and we use: nothing else may be there.
func stixProperties() map[string]struct{ required, optional []string } {
	sdo := []string{"created", "modified"}
	common := []string{"created_by_ref", "external_references", "labels", "confidence"}
	return map[string]struct{ required, optional []string }{
		"identity":        {append(sdo, "name"), append(common, "identity_class", "description")},
		"attack-pattern":  {append(sdo, "name"), append(common, "kill_chain_phases", "description")},
		"indicator":       {append(sdo, "pattern", "pattern_type", "valid_from"), append(common, "name", "description", "indicator_types", "pattern_version")},
		"observed-data":   {append(sdo, "first_observed", "last_observed", "number_observed", "object_refs"), common},
		"relationship":    {append(sdo, "relationship_type", "source_ref", "target_ref"), common},
		"sighting":        {append(sdo, "sighting_of_ref"), append(common, "observed_data_refs", "where_sighted_refs", "first_seen", "last_seen", "count")},
		"ipv4-addr":       {[]string{"value"}, nil},
		"ipv6-addr":       {[]string{"value"}, nil},
		"domain-name":     {[]string{"value"}, nil},
		"network-traffic": {[]string{"protocols", "src_ref", "dst_ref"}, []string{"start", "src_port", "dst_port"}},
	}
}

var (
	stixID      = regexp.MustCompile(`^([a-z0-9-]+)--[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	stixStamp   = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$`)
	stixPattern = regexp.MustCompile(`^\[network-traffic:dst_ref\.type = '(ipv4|ipv6)-addr' AND network-traffic:dst_ref\.value = '[0-9a-f.:]+' AND network-traffic:dst_port = \d+\]$`)
)

// checkSTIX holds a bundle against the standard.
func checkSTIX(t *testing.T, text []byte) map[string]map[string]any {
	t.Helper()
	var b struct {
		Type, ID string
		Objects  []map[string]any
	}
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	if b.Type != "bundle" || !strings.HasPrefix(b.ID, "bundle--") || !stixID.MatchString(b.ID) {
		t.Errorf("bundle %q %q", b.Type, b.ID)
	}
	byID := map[string]map[string]any{}
	for _, o := range b.Objects {
		id := fmt.Sprint(o["id"])
		if byID[id] != nil {
			t.Errorf("%s is there twice", id)
		}
		byID[id] = o
	}
	rules := stixProperties()
	for id, o := range byID {
		kind := fmt.Sprint(o["type"])
		rule, known := rules[kind]
		if m := stixID.FindStringSubmatch(id); !known || m == nil || m[1] != kind || o["spec_version"] != "2.1" {
			t.Errorf("%s: type %s, version %v", id, kind, o["spec_version"])
			continue
		}
		for _, p := range rule.required {
			if o[p] == nil {
				t.Errorf("%s has no %s", id, p)
			}
		}
		for p, v := range o {
			if !slices.Contains(append(append([]string{"type", "id", "spec_version"}, rule.required...), rule.optional...), p) {
				t.Errorf("%s: %s does not belong there", id, p)
			}
			text, _ := v.(string)
			switch {
			case strings.HasSuffix(p, "_ref") && byID[text] == nil:
				t.Errorf("%s: %s leads nowhere", id, p)
			case strings.HasSuffix(p, "_refs"):
				refs, _ := v.([]any)
				if len(refs) == 0 {
					t.Errorf("%s: %s is empty", id, p)
				}
				for _, r := range refs {
					if byID[fmt.Sprint(r)] == nil {
						t.Errorf("%s: %s leads nowhere", id, p)
					}
				}
			case slices.Contains([]string{"created", "modified", "first_observed", "last_observed", "first_seen", "last_seen", "start", "valid_from"}, p):
				if _, err := time.Parse(time.RFC3339Nano, text); err != nil || !stixStamp.MatchString(text) {
					t.Errorf("%s: %s is %q", id, p, text)
				}
			case p == "pattern" && !stixPattern.MatchString(text):
				t.Errorf("%s: pattern %s", id, text)
			case p == "confidence" && !(v.(float64) >= 0 && v.(float64) <= 100):
				t.Errorf("%s: confidence %v", id, v)
			case p == "value" && kind != "domain-name":
				if a, err := netip.ParseAddr(text); err != nil || a.Is4() != (kind == "ipv4-addr") {
					t.Errorf("%s: %q is no %s", id, text, kind)
				}
			}
		}
	}
	return byID
}

func TestSTIX(t *testing.T) {
	hits, _ := goldenHits(t)
	var first, second bytes.Buffer
	all := inOrder(hits)
	if err := WriteSTIX(&first, all); err != nil {
		t.Fatal(err)
	}
	if err := WriteSTIX(&second, all); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same hits give two bundles")
	}
	kinds := map[string]int{}
	for _, o := range checkSTIX(t, first.Bytes()) {
		kinds[fmt.Sprint(o["type"])]++
	}
	ids := map[string]bool{}
	for _, m := range hits {
		ids[m.Portolan.HitID] = true
	}
	for _, kind := range []string{"indicator", "sighting", "observed-data"} {
		if kinds[kind] != len(ids) {
			t.Errorf("%d of %s, want %d", kinds[kind], kind, len(ids))
		}
	}
	if kinds["attack-pattern"] != 1 || kinds["network-traffic"] == 0 || kinds["domain-name"] == 0 || kinds["ipv6-addr"] == 0 {
		t.Errorf("objects %v", kinds)
	}
	if err := WriteSTIX(&first, nil); err != nil {
		t.Error(err)
	}
}

func TestCSV(t *testing.T) {
	hits, _ := goldenHits(t)
	evil := *hits["alert-address"]
	evil.Portolan.Lookup.Name = `=HYPERLINK("http://x.example","a,b")`
	evil.Portolan.Calc.Expression = "+1\r\n-2"
	all := append(inOrder(hits), &evil)
	var b bytes.Buffer
	if err := WriteCSV(&b, all); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(b.Bytes())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1+len(all) || len(rows[0]) != len(ColumnHelp()) || !strings.Contains(b.String(), "\r\n") {
		t.Errorf("%d rows of %d columns", len(rows), len(rows[0]))
	}
	at := func(name string) int { return slices.Index(rows[0], name) }
	last := rows[len(rows)-1]
	if got := last[at("lookup_name")]; got != `'=HYPERLINK("http://x.example","a,b")` {
		t.Errorf("a formula stands there as %s", got)
	}
	if got := last[at("expression")]; got != "'+1\n-2" && got != "'+1\r\n-2" {
		t.Errorf("an expression that begins like a formula stands there as %q", got)
	}
	for _, row := range rows[1:] {
		for i, cell := range row {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r") {
				t.Errorf("%s: %q", rows[0][i], cell)
			}
		}
		if _, err := netip.ParseAddr(row[at("client")]); err != nil {
			t.Error(err)
		}
	}
}

// lookAt returns what stands at a dotted path of a message.
func lookAt(m map[string]any, path string) (any, bool) {
	var v any = m
	for _, key := range strings.Split(path, ".") {
		o, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = o[key]; !ok {
			return nil, false
		}
	}
	return v, true
}

// sigmaRule is as much of a Sigma rule (specification 2.0) as those in deploy/sigma use.
type sigmaRule struct {
	Title, ID, Status, Description, Author, Date, Level string
	References, Tags, Fields, FalsePositives            []string
	Related                                             []struct{ ID, Type string }
	LogSource                                           map[string]string
	Detection                                           map[string]any
}

// matches evaluates "selection and not filter" and "all of prefix_* and not filter".
func (r *sigmaRule) matches(t *testing.T, m map[string]any) bool {
	t.Helper()
	condition := fmt.Sprint(r.Detection["condition"])
	positive, negative, _ := strings.Cut(condition, " and not ")
	names := []string{positive}
	if prefix, ok := strings.CutPrefix(positive, "all of "); ok {
		names = nil
		for name := range r.Detection {
			if strings.HasPrefix(name, strings.TrimSuffix(prefix, "*")) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		t.Errorf("condition %q names no selection", condition)
	}
	for _, name := range names {
		if !r.selected(t, name, m) {
			return false
		}
	}
	return negative == "" || !r.selected(t, negative, m)
}

func (r *sigmaRule) selected(t *testing.T, name string, m map[string]any) bool {
	t.Helper()
	selection, ok := r.Detection[name].(map[string]any)
	if !ok {
		t.Fatalf("%s: no selection %q", r.Title, name)
	}
	for field, want := range selection {
		field, modifier, _ := strings.Cut(field, "|")
		got, ok := lookAt(m, field)
		if !ok {
			return false
		}
		switch modifier {
		case "":
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return false
			}
		case "gte":
			number, ok := got.(float64)
			if !ok || number < float64(want.(uint64)) {
				return false
			}
		default:
			t.Fatalf("modifier %q", modifier)
		}
	}
	return true
}

// The rules are as the specification has them, speak of fields that hits have, and match what they should.
func TestSigmaRules(t *testing.T) {
	_, raw := goldenHits(t)
	want := map[string][]string{
		"portolan_dns_calculation":          {"alert"},
		"portolan_dns_calculation_possible": {"watch"},
	}
	files, err := filepath.Glob("../../../deploy/sigma/*.yml")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d rules: %v", len(files), err)
	}
	ids := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var r sigmaRule
		if err := yaml.UnmarshalWithOptions(b, &r, yaml.Strict()); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".yml")
		uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
		switch {
		case r.Title == "" || len(r.Title) > 256 || !uuid.MatchString(r.ID) || ids[r.ID]:
			t.Errorf("%s: title %q, id %q", name, r.Title, r.ID)
		case !slices.Contains([]string{"stable", "test", "experimental"}, r.Status), !slices.Contains([]string{"low", "medium", "high", "critical"}, r.Level):
			t.Errorf("%s: status %q, level %q", name, r.Status, r.Level)
		case r.LogSource["product"] != "portolan" || r.LogSource["service"] != "hit":
			t.Errorf("%s: logsource %v", name, r.LogSource)
		case !slices.Contains(r.Tags, "attack.t1568.003"):
			t.Errorf("%s: tags %v", name, r.Tags)
		}
		if _, err := time.Parse(time.DateOnly, r.Date); err != nil {
			t.Error(err)
		}
		ids[r.ID] = true
		for _, field := range r.Fields {
			for hit, m := range raw {
				if _, ok := lookAt(m, field); !ok {
					t.Errorf("%s: %s has no %s", name, hit, field)
				}
			}
		}
		matched := 0
		for hit, m := range raw {
			level, _ := lookAt(m, "portolan.level")
			state, _ := lookAt(m, "portolan.state")
			should := slices.Contains(want[name], fmt.Sprint(level)) && state != "retracted"
			if got := r.matches(t, m); got != should {
				t.Errorf("%s: matches %s: %t, want %t", name, hit, got, should)
			} else if got {
				matched++
			}
		}
		if matched == 0 || matched == len(raw) {
			t.Errorf("%s matches %d of %d golden hits", name, matched, len(raw))
		}
	}
}

// Every field of the mapping is one that hits have.
func TestSigmaMap(t *testing.T) {
	_, raw := goldenHits(t)
	var b bytes.Buffer
	if err := WriteSigmaMap(&b); err != nil {
		t.Fatal(err)
	}
	var pipeline struct {
		Name            string
		Priority        int
		Transformations []struct {
			ID, Type       string
			Mapping        map[string]string
			Conditions     map[string]string
			RuleCondOp     string              `yaml:"rule_cond_op"`
			RuleConditions []map[string]string `yaml:"rule_conditions"`
		}
	}
	if err := yaml.UnmarshalWithOptions(b.Bytes(), &pipeline, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if len(pipeline.Transformations) != 2 || len(pipeline.Transformations[0].Mapping) != len(sigmaFields()) {
		t.Fatalf("pipeline %+v", pipeline)
	}
	for from, to := range pipeline.Transformations[0].Mapping {
		found := false
		for _, m := range raw {
			_, ok := lookAt(m, to)
			found = found || ok
		}
		if !found {
			t.Errorf("%s: no golden hit has %s", from, to)
		}
	}
	for field, value := range pipeline.Transformations[1].Conditions {
		for hit, m := range raw {
			if got, _ := lookAt(m, field); got != value {
				t.Errorf("%s: %s is %v, want %s", hit, field, got, value)
			}
		}
	}
}
