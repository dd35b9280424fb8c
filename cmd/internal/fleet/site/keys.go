package site

import (
	"bytes"
	"fmt"
	"path"
	"strings"
	"text/template"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// keys is what a set proves identities with.
type keys struct {
	conf    []byte            // the server's configuration
	users   map[string][]byte // by name: NKey seed, or credentials
	signing []file            // keys that make more users; JWT only
}

func newKeys(c Config, now time.Time) (*keys, error) {
	k := &keys{users: map[string][]byte{}}
	var err error
	if c.Auth == JWT {
		err = k.makeJWT(c, now)
	} else {
		err = k.makeNKeys(c)
	}
	if err != nil {
		return nil, fmt.Errorf("keys of site %s: %w", c.Site, err)
	}
	return k, nil
}

// confUser is a user as the server's configuration holds it.
type confUser struct {
	Role, Name, Key    string
	Publish, Subscribe []string
}

// confData is what the server's configuration is made of.
type confData struct {
	Config
	Cert, Key, CA string
	Users         []confUser
	Operator      string // JWT, as the fields below
	System        string
	Accounts      [][2]string // public key and JWT
}

// makeNKeys makes a key for each user; the server's configuration holds the public halves.
func (k *keys) makeNKeys(c Config) error {
	d := newConfData(c)
	for _, u := range c.users() {
		pair, err := nkeys.CreateUser()
		if err != nil {
			return err
		}
		public, seed, err := halves(pair)
		if err != nil {
			return err
		}
		k.users[u.name] = append(seed, '\n')
		p := PermissionsOf(u.role, u.name)
		d.Users = append(d.Users, confUser{string(u.role), u.name, public, p.Publish, p.Subscribe})
	}
	return k.writeConf(d)
}

// makeJWT makes an operator, the system's account and one for Portolan, and users with their
// permissions signed by it.
func (k *keys) makeJWT(c Config, now time.Time) error {
	d := newConfData(c)
	operator, err := nkeys.CreateOperator()
	if err != nil {
		return err
	}
	system, err := nkeys.CreateAccount()
	if err != nil {
		return err
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		return err
	}
	operatorKey, operatorSeed, err := halves(operator)
	if err != nil {
		return err
	}
	systemKey, _, err := halves(system)
	if err != nil {
		return err
	}
	accountKey, accountSeed, err := halves(account)
	if err != nil {
		return err
	}

	o := jwt.NewOperatorClaims(operatorKey)
	o.Name, o.SystemAccount = c.Site, systemKey
	if d.Operator, err = o.Encode(operator); err != nil {
		return err
	}
	s := jwt.NewAccountClaims(systemKey)
	s.Name = "SYS"
	a := jwt.NewAccountClaims(accountKey)
	a.Name = "PORTOLAN"
	a.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
		MaxAckPending: jwt.NoLimit, MemoryMaxStreamBytes: jwt.NoLimit, DiskMaxStreamBytes: jwt.NoLimit,
	}
	d.System = systemKey
	for _, claims := range []*jwt.AccountClaims{s, a} {
		token, err := claims.Encode(operator)
		if err != nil {
			return err
		}
		d.Accounts = append(d.Accounts, [2]string{claims.Subject, token})
	}
	for _, u := range c.users() {
		if k.users[u.name], err = credentials(u, account, now.Add(c.CertificateAge)); err != nil {
			return err
		}
	}
	k.signing = []file{
		{"signing/operator.nk", append(operatorSeed, '\n'), 0o600},
		{"signing/account.nk", append(accountSeed, '\n'), 0o600},
	}
	return k.writeConf(d)
}

// credentials returns the credentials file of a user, valid until the given time.
func credentials(u user, account nkeys.KeyPair, until time.Time) ([]byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, seed, err := halves(pair)
	if err != nil {
		return nil, err
	}
	claims := jwt.NewUserClaims(public)
	claims.Name, claims.Expires = u.name, until.Unix()
	p := PermissionsOf(u.role, u.name)
	claims.Pub.Allow.Add(p.Publish...)
	claims.Sub.Allow.Add(p.Subscribe...)
	token, err := claims.Encode(account)
	if err != nil {
		return nil, err
	}
	return jwt.FormatUserConfig(token, seed)
}

func halves(p nkeys.KeyPair) (public string, seed []byte, err error) {
	if public, err = p.PublicKey(); err == nil {
		seed, err = p.Seed()
	}
	return public, seed, err
}

func newConfData(c Config) *confData {
	return &confData{
		Config: c,
		Cert:   path.Join(c.ServerDir, "cert.pem"),
		Key:    path.Join(c.ServerDir, "key.pem"),
		CA:     path.Join(c.ServerDir, "ca.pem"),
	}
}

func (k *keys) writeConf(d *confData) error {
	t, err := template.New("nats-server.conf").Parse(confTemplate)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, d); err != nil {
		return err
	}
	k.conf = []byte(strings.ReplaceAll(b.String(), "\n\n\n", "\n\n"))
	return nil
}

// confTemplate is the server's configuration. Names are checked and paths hold no quote, so that
// quoting them is enough.
const confTemplate = `# nats-server configuration for Portolan at {{.Site}}.
# Every connection needs a certificate of this site's authority and {{if .Operator}}credentials signed by its account{{else}}one of the keys below{{end}}.

server_name: "{{.Site}}"
listen: "{{.Listen}}"

jetstream {
  store_dir: "{{.StoreDir}}"
  max_file_store: 8GB
  # How often stored messages are forced to the disk. A host that loses power loses at most this much.
  sync_interval: 2s
}

tls {
  cert_file: "{{.Cert}}"
  key_file: "{{.Key}}"
  ca_file: "{{.CA}}"
  verify: true
}
{{if .Operator}}
operator: {{.Operator}}
system_account: {{.System}}
resolver: MEMORY
resolver_preload {
{{- range .Accounts}}
  {{index . 0}}: {{index . 1}}
{{- end}}
}
{{else}}
accounts {
  PORTOLAN {
    jetstream: enabled
    users: [
{{- range .Users}}
      # {{.Role}} {{.Name}}
{{- if .Publish}}
      {
        nkey: {{.Key}}
        permissions: {
          publish: { allow: [
{{- range .Publish}}
            "{{.}}"
{{- end}}
          ] }
          subscribe: { allow: [
{{- range .Subscribe}}
            "{{.}}"
{{- end}}
          ] }
        }
      }
{{- else}}
      { nkey: {{.Key}} }
{{- end}}
{{- end}}
    ]
  }
}
{{end}}`
