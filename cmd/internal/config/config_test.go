package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "portolan.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultIsValid(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

// Every setting takes back what it shows, whether it stands in the environment or the file.
func TestSettingsTakeWhatTheyShow(t *testing.T) {
	defaults := Default()
	seen := map[string]string{}
	for _, s := range Settings() {
		for _, name := range []string{s.Key, s.Env(), "--" + s.Flag} {
			if other, twice := seen[name]; twice && name != "--" {
				t.Errorf("%s names both %s and %s", name, other, s.Key)
			}
			seen[name] = s.Key
		}
		text := s.Show(&defaults)
		if text == "" {
			if s.None == "" {
				t.Errorf("%s is empty by default, and does not say what that means", s.Key)
			}
			continue
		}
		if err := s.Check(text); err != nil {
			t.Errorf("%s shows %q and does not take it: %v", s.Key, text, err)
		}
		if isGroup(s.Key) {
			t.Errorf("%s is a key and a group", s.Key)
		}
	}
}

func TestEarlierLayersWin(t *testing.T) {
	file := write(t, "hold: 3s\nwatch: 20\nalert: 2000\nnats:\n  url: nats://file\n")
	c, err := Load(Input{
		File:    file,
		Environ: []string{"PORTOLAN_WATCH=30", "PORTOLAN_NATS_URL=nats://env", "PORTOLAN_ALERT=", "HOME=/"},
		Flags:   map[string]string{"nats.url": "nats://flag"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ key, value, origin string }{
		{"nats.url", "nats://flag", "flag --nats"},
		{"watch", "30", "environment PORTOLAN_WATCH"},
		{"alert", "2000", file + ":3"},
		{"hold", "3s", file + ":1"},
		{"port_window", "10m", "default"},
	} {
		if got := Find(tt.key).Show(&c); got != tt.value {
			t.Errorf("%s is %q, want %q", tt.key, got, tt.value)
		}
		if got := c.Origin(tt.key); got != tt.origin {
			t.Errorf("%s comes from %q, want %q", tt.key, got, tt.origin)
		}
	}
	if c.Correlate.Hold != 3*time.Second {
		t.Errorf("the correlator holds for %v, want 3s", c.Correlate.Hold)
	}
}

func TestFileErrorsNameThePlace(t *testing.T) {
	for _, tt := range []struct {
		name, text   string
		line, column int
		message      string // part of it
		hint         string
	}{
		{"unknown key", "hold: 2s\nwach: 5\n", 2, 1, `unknown key "wach"`, `did you mean "watch"?`},
		{"unknown key in a group", "nats:\n  urk: x\n", 2, 3, `unknown key "nats.urk"`, `did you mean "nats.url"?`},
		{"nothing like it", "zzzzzz: 1\n", 1, 1, `unknown key "zzzzzz"`, "portolan config show lists all keys"},
		{"a group as a value", "nats: nats://hub\n", 1, 7, "keys and values were expected", ""},
		{"a mapping as a value", "hold:\n  a: b\n", 2, 4, "hold: a plain value was expected", ""},
		{"no value", "hold:\nwatch: 20\n", 1, 6, "hold: the key has no value", ""},
		{"out of range", "rings: 1000\n", 1, 8, "rings: \"1000\" is not a number from 1 to 64", ""},
		{"list in a list", "device: [[a]]\n", 1, 9, "a list cannot hold a list", ""},
		{"host bits in a prefix", "resolver_whitelist: [10.0.0.1/8]\n", 1, 21, "did you mean 10.0.0.0/8?", ""},
		{"the same key twice", "hold: 1s\nhold: 2s\n", 2, 1, "already defined", ""},
		{"second document", "hold: 1s\n---\nhold: 2s\n", 3, 5, "second YAML document", ""},
		{"no mapping at all", "- a\n- b\n", 1, 1, "keys and values were expected", ""},
		{"not YAML", "nats: {url: a\nhold: 1s\n", 2, 1, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(Input{File: write(t, tt.text)})
			var fe *FileError
			if !errors.As(err, &fe) {
				t.Fatalf("error %v, want a FileError", err)
			}
			if fe.Line != tt.line || fe.Column != tt.column {
				t.Errorf("at %d:%d, want %d:%d: %v", fe.Line, fe.Column, tt.line, tt.column, err)
			}
			if !strings.Contains(fe.Message, tt.message) {
				t.Errorf("%q does not say %q", fe.Message, tt.message)
			}
			if fe.Hint != tt.hint {
				t.Errorf("hint %q, want %q", fe.Hint, tt.hint)
			}
			lines := strings.Split(strings.TrimSuffix(fe.Excerpt, "\n"), "\n")
			caret := lines[len(lines)-1]
			if got := strings.Index(caret, "^") - len("      | "); got != tt.column-1 {
				t.Errorf("the caret stands under column %d, want %d:\n%s", got+1, tt.column, fe.Excerpt)
			}
		})
	}
}

func TestEmptyFilesSetNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "nats:\n  # later\n"} {
		if _, err := Load(Input{File: write(t, text)}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestValidateNamesWhatContradicts(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"certificate without key", "nats: {cert: a.pem}", "nats.cert and nats.key"},
		{"two ways to log in", "nats: {creds: a, nkey: b}", "nats.creds and nats.nkey"},
		{"watch above alert", "watch: 1e9", "watch"},
		{"sensor with a dot", "sensor: a.b", "sensor"},
		{"sensor with a space", "sensor: a b", "sensor"},
	} {
		_, err := Load(Input{File: write(t, tt.text+"\n")})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one about %s", tt.name, err, tt.want)
		}
	}
}

func TestSecretsAreHidden(t *testing.T) {
	seed := "SUAOTBNEUZ3GQBWQXG4FZLHSGYTMQCSQN7HVNSYRGSRYMGSDOFXPO3ZUDE"
	for _, tt := range []struct{ key, text, want string }{
		{"nats.url", "nats://u:secret@a:1,nats://token@b:2,tls://c:3", "nats://hidden@a:1,nats://hidden@b:2,tls://c:3"},
		{"nats.url", "nats://%zz:secret@a", "(hidden)"},
		{"nats.nkey", seed, "(hidden)"},
		{"nats.nkey", "/run/secrets/sensor.nk", "/run/secrets/sensor.nk"},
		{"nats.listen_password", "secret", "(hidden)"},
	} {
		c := Default()
		s := Find(tt.key)
		if err := s.field(&c).Set(tt.text); err != nil {
			t.Fatal(err)
		}
		if got := s.Show(&c); got != tt.want {
			t.Errorf("%s %q is shown as %q, want %q", tt.key, tt.text, got, tt.want)
		}
	}
}

func TestStateDirFollowsTheHost(t *testing.T) {
	for _, tt := range []struct {
		name string
		euid int
		env  map[string]string
		want string
	}{
		{"systemd says", 0, map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"},
		{"root", 0, map[string]string{"HOME": "/root"}, "/var/lib/portolan"},
		{"user with XDG", 1000, map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "/s"}, "/s/portolan"},
		{"XDG that is not absolute does not count", 1000, map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "s"},
			"/home/u/.local/state/portolan"},
		{"nobody", 65534, nil, "portolan-data"},
	} {
		if got := defaultStateDir(tt.euid, func(k string) string { return tt.env[k] }); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int64 // 0 for an error
	}{
		{"256MiB", 256 << 20}, {"1 GiB", 1 << 30}, {"2000000", 2e6}, {"2000000B", 2e6}, {"64MB", 64e6}, {"2048kB", 2048e3},
		{"1B", 0}, {"-1GiB", 0}, {"9223372036854775807GiB", 0}, {"GiB", 0}, {"1.5GiB", 0}, {"", 0},
	} {
		n := int64(-1)
		err := (&size{&n, 1 << 20, 1 << 40}).Set(tt.text)
		if tt.want == 0 {
			if err == nil || n != -1 {
				t.Errorf("%q gives %d, want an error and nothing set", tt.text, n)
			}
			continue
		}
		if err != nil || n != tt.want {
			t.Errorf("%q gives %d, %v, want %d", tt.text, n, err, tt.want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"run", "replay", "events", "watch", "explain", "config"}
	for _, tt := range []struct{ typed, want string }{
		{"replya", "replay"}, {"evnts", "events"}, {"rn", "run"}, {"wtach", "watch"}, {"explian", "explain"},
		{"frobnicate", ""}, {"", ""}, {"x", ""},
	} {
		if got := Nearest(tt.typed, names); got != tt.want {
			t.Errorf("%q is near %q, want %q", tt.typed, got, tt.want)
		}
	}
}

func TestUnknownEnvironment(t *testing.T) {
	got := Unknown([]string{"PORTOLAN_WACH=1", "PORTOLAN_WATCH=1", "PORTOLAN_CONFIG=x", "OTHER=1", "PORTOLAN_SERVICE_HOST=h"})
	if strings.Join(got, " ") != "PORTOLAN_WACH PORTOLAN_SERVICE_HOST" {
		t.Errorf("unknown are %v", got)
	}
}

// FuzzFile: no text makes the reader panic, and what it refuses it refuses at a place that is there.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"hold: 2s\n", "nats:\n  url: x\n", "a: [", "? x\n: y\n", "<<: *a\n", "&a b: !!int c\n", "\"\\", "\t", "---\n---\n",
		"hypotheses:\n- {id: a, port: >\n c*}\n", "hypotheses: [{}, {a: }, {id: [b], address: 'é'}]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		c.origin = map[string]string{}
		var fe *FileError
		if err := c.setFile("f", []byte(text)); errors.As(err, &fe) {
			if fe.Line < 1 || fe.Column < 1 || fe.Message == "" {
				t.Errorf("%q: error without a place or message: %+v", text, fe)
			}
		}
	})
}
