package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// labelsOf returns the labels that each of our metrics can have, by its full name.
func labelsOf(t *testing.T) map[string][]string {
	t.Helper()
	described := regexp.MustCompile(`fqName: "([a-z_]+)".*variableLabels: \{([a-z_,]*)\}`)
	all := map[string][]string{}
	for _, c := range []prometheus.Collector{&runCollector{}, &workerCollector{}, &reloads{}} {
		descs := make(chan *prometheus.Desc, 1000)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := described.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("what is described as %s?", d)
			}
			all[m[1]] = strings.Split(m[2], ",")
		}
	}
	return all
}

// TestMetricNames keeps to what Prometheus asks of names, and hosts and looked-up names out of labels.
func TestMetricNames(t *testing.T) {
	fine := []string{
		"", "device", "ring", "place", "reason", "class", "action", "kind", "direction", "table", "level", "verdict", "outcome", "by", "again",
		"filter", "fan_out", "version", "goversion",
	}
	for name, labels := range labelsOf(t) {
		if !strings.HasPrefix(name, "portolan_") {
			t.Errorf("%s does not begin with portolan_", name)
		}
		for _, label := range labels {
			if !slices.Contains(fine, label) {
				t.Errorf("%s has the label %q, which is none that is known to hold no host and no name", name, label)
			}
		}
	}
}

var (
	metricInQuery = regexp.MustCompile(`\b(portolan_[a-z_]+|process_[a-z_]+|go_[a-z_]+)\b(?:\{([^}]*)\})?`)
	labelInQuery  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
)

// TestDashboardAndRules: what the dashboard shows and alerts are raised by, a sensor tells.
func TestDashboardAndRules(t *testing.T) {
	known := labelsOf(t)
	registry := prometheus.NewRegistry()
	registry.MustRegister(process()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		known[f.GetName()] = nil
	}
	deploy := filepath.Join("..", "..", "deploy")
	rules, err := os.ReadFile(filepath.Join(deploy, "prometheus", "portolan.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(deploy, "grafana", "portolan.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Query any }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{"the rules": string(rules), "the variables": fmt.Sprint(dashboard.Templating.List)}
	for _, p := range dashboard.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for i, target := range p.Targets {
			queries[fmt.Sprintf("panel %q, query %d", p.Title, i+1)] = target.Expr
		}
	}
	shown := map[string]bool{}
	for where, query := range queries {
		found := metricInQuery.FindAllStringSubmatch(query, -1)
		if len(found) == 0 {
			t.Errorf("%s names no metric: %s", where, query)
		}
		for _, m := range found {
			name := m[1]
			shown[name] = true
			labels, ok := known[name]
			if !ok {
				t.Errorf("%s: there is no metric %s", where, name)
				continue
			}
			for _, l := range labelInQuery.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "instance" && l[1] != "job" && !slices.Contains(labels, l[1]) {
					t.Errorf("%s: %s has no label %s, only %v", where, name, l[1], labels)
				}
			}
		}
	}
	if len(shown) < 40 {
		t.Errorf("dashboard and rules name %d metrics; were they read?", len(shown))
	}
}

// scraped returns the names and the text of what a sensor tells over HTTP.
func scraped(t *testing.T, url string) (names map[string]bool, text string) {
	t.Helper()
	client := &http.Client{Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", url, resp.Status, err, body)
	}
	names = map[string]bool{}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names[name] = true
		}
	}
	return names, string(body)
}

// waitReady waits until a sensor says that it does its work.
func waitReady(t *testing.T, address string) {
	t.Helper()
	client := &http.Client{Timeout: patience}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		why := ""
		resp, err := client.Get("http://" + address + "/readyz")
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			why = string(body)
		}
		if time.Now().After(end) {
			t.Fatalf("not ready after %v: %v %s", patience, err, why)
		}
	}
}
