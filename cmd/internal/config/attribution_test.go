package config

import (
	"strings"
	"testing"
)

func TestMappings(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"one to one", "10.0.0.0/24=203.0.113.0/24", "10.0.0.0/24=203.0.113.0/24"},
		{"many behind one, and another", " 10.1.0.0/16=203.0.113.7 , 10.2.0.9=203.0.113.9/32", "10.1.0.0/16=203.0.113.7,10.2.0.9=203.0.113.9"},
		{"for a while", "10.1.0.0/16=203.0.113.7@2026-03-01T00:00:00Z/2026-04-01T00:00:00Z", "10.1.0.0/16=203.0.113.7@2026-03-01T00:00:00Z/2026-04-01T00:00:00Z"},
		{"since", "10.1.0.0/16=203.0.113.7@2026-03-01T00:00:00Z/", "10.1.0.0/16=203.0.113.7@2026-03-01T00:00:00Z/"},
		{"none", "", ""},
	} {
		var v mappings
		if err := v.Set(tt.text); err != nil || v.String() != tt.want {
			t.Errorf("%s: %q (%v), want %q", tt.name, v.String(), err, tt.want)
		}
	}
	for _, tt := range []struct{ name, text, want string }{
		{"one side only", "10.0.0.0/24", "want INSIDE=OUTSIDE"},
		{"no address", "10.0.0.0/24=router", "want INSIDE=OUTSIDE"},
		{"bits beyond the length", "10.0.0.1/24=203.0.113.7", "want INSIDE=OUTSIDE"},
		{"no time", "10.0.0.0/24=203.0.113.7@now/", "want @FROM/UNTIL"},
		{"one time without a slash", "10.0.0.0/24=203.0.113.7@2026-03-01T00:00:00Z", "want @FROM/UNTIL"},
		{"the end first", "10.0.0.0/24=203.0.113.7@2026-04-01T00:00:00Z/2026-03-01T00:00:00Z", "ends before"},
	} {
		var v mappings
		if err := v.Set(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		}
	}
}
