package bus

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func ocsfSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(filepath.Join("testdata", "ocsf", "detection_finding-1.4.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// goldenMessages returns the messages in testdata/hit by their base names.
func goldenMessages(t *testing.T) map[string]*Message {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "testdata", "hit")
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*Message{}
	for _, name := range names {
		if strings.HasSuffix(name, ".schema.json") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".json")] = m
	}
	if len(all) < 5 {
		t.Fatalf("%d golden messages in %s, want at least 5", len(all), dir)
	}
	return all
}

// TestOCSFGolden: each golden message gives the finding in testdata/ocsf, which holds what the
// class requires and nothing that it does not know.
func TestOCSFGolden(t *testing.T) {
	s := ocsfSchema(t)
	for name, m := range goldenMessages(t) {
		b, err := m.EncodeOCSF()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(s, b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var whole struct{ Unmapped struct{ Portolan Portolan } }
		if err := json.Unmarshal(b, &whole); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(whole.Unmapped.Portolan, m.Portolan) {
			t.Errorf("%s: unmapped.portolan is not that of the message", name)
		}
		f := m.ocsf()
		f.Unmapped.Portolan = nil // has golden messages of its own
		if b, err = json.MarshalIndent(f, "", "  "); err != nil {
			t.Fatal(err)
		}
		got := append(b, '\n')
		golden := filepath.Join("testdata", "ocsf", name+".json")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from %s; go test -update rewrites it:\n%s", name, golden, got)
		}
	}
}

// TestOCSFRequired: without any attribute that OCSF requires, a finding is invalid, so the schema
// above would notice.
func TestOCSFRequired(t *testing.T) {
	s := ocsfSchema(t)
	b, err := goldenMessages(t)["alert-port"].EncodeOCSF()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"activity_id", "category_uid", "class_uid", "finding_info", "metadata", "severity_id", "time", "type_uid",
		"metadata.version", "metadata.product", "finding_info.uid", "finding_info.title", "finding_info.analytic.type_id",
	} {
		var f map[string]any
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		at := f
		keys := strings.Split(path, ".")
		for _, k := range keys[:len(keys)-1] {
			at = at[k].(map[string]any)
		}
		delete(at, keys[len(keys)-1])
		less, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if validate(s, less) == nil {
			t.Errorf("without %s the finding is still valid", path)
		}
	}
}

// TestOCSFObservables: each observable stands where its name says.
func TestOCSFObservables(t *testing.T) {
	step := regexp.MustCompile(`^(\w+)(?:\[(\d+)\])?$`)
	for name, m := range goldenMessages(t) {
		b, err := m.EncodeOCSF()
		if err != nil {
			t.Fatal(err)
		}
		var f map[string]any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&f); err != nil {
			t.Fatal(err)
		}
		list := f["observables"].([]any)
		if len(list) < 3 {
			t.Errorf("%s: %d observables, want at least client, destination and port", name, len(list))
		}
		for _, o := range list {
			o := o.(map[string]any)
			var at any = f
			for _, k := range strings.Split(o["name"].(string), ".") {
				parts := step.FindStringSubmatch(k)
				at = at.(map[string]any)[parts[1]]
				if parts[2] != "" {
					i, err := strconv.Atoi(parts[2])
					if err != nil {
						t.Fatal(err)
					}
					at = at.([]any)[i]
				}
			}
			if n, ok := at.(json.Number); ok {
				at = n.String()
			}
			if at != o["value"] {
				t.Errorf("%s: observable %v is %v, and there stands %v", name, o["name"], o["value"], at)
			}
		}
	}
}

func TestOCSFGrade(t *testing.T) {
	for _, tt := range []struct {
		level, state                           string
		revision                               uint32
		activity, severity, confidence, status int
		alert                                  bool
	}{
		{"alert", "provisional", 1, 1, 4, 3, 1, true},
		{"alert", "final", 2, 2, 4, 3, 1, true},
		{"watch", "final", 1, 1, 3, 2, 1, true},
		{"lead", "final", 1, 1, 2, 1, 1, false},
		{"alert", "enriched", 3, 2, 4, 3, 1, true},
		{"alert", "retracted", 2, 3, 1, 0, 4, false},
		{"none", "retracted", 2, 3, 1, 0, 4, false},
	} {
		m := *goldenMessages(t)["alert-port"]
		m.Portolan.Level, m.Portolan.State, m.Portolan.Revision = tt.level, tt.state, tt.revision
		if !tt.alert {
			m.Event.Kind = "event"
		}
		f := m.ocsf()
		got := []any{f.ActivityID, f.SeverityID, f.ConfidenceID, f.StatusID, f.TypeUID, f.IsAlert}
		want := []any{tt.activity, tt.severity, tt.confidence, tt.status, 200400 + tt.activity, tt.alert}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s %s revision %d: activity, severity, confidence, status, type, alert %v, want %v",
				tt.level, tt.state, tt.revision, got, want)
		}
	}
}
