package feed

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// maxToken bounds a host id in bytes.
const maxToken = 64

// Reasons why a record is refused, besides its form.
var (
	ErrForeignHost = errors.New("it speaks for another host")
	ErrNoHost      = errors.New("it names no host")
	ErrTime        = errors.New("its time is missing, before 1970 or in the future")
)

// Origin says for which hosts lines may speak, and whom a line means that names no host. The
// zero value takes lines of any host that name it, and yields no connections for sources that
// leave the host's address out.
type Origin struct {
	HostID string                // of lines that name no host, or this Host; one subject token
	Host   string                // that host's name
	Addr   netip.Addr            // where that host's connections come from, when its source does not say; may be invalid
	Addrs  map[string]netip.Addr // the same of other hosts, by the name that lines give; only read
	Only   bool                  // refuse lines that name another host than Host
	Now    func() event.Time     // for refusing times more than attribute.MaxAhead later; nil when the time of reading means nothing
}

// Resolve returns the id, the name and the address of the host that a line names, "" when it
// names none. The error is ErrForeignHost or ErrNoHost.
func (o *Origin) Resolve(name string) (id, host string, addr netip.Addr, err error) {
	if name == "" || sameHost(name, o.Host) {
		if o.HostID == "" && name == "" {
			return "", "", netip.Addr{}, ErrNoHost
		}
		if o.HostID != "" {
			return o.HostID, o.Host, o.Addr, nil
		}
	}
	if o.Only {
		return "", "", netip.Addr{}, ErrForeignHost
	}
	return HostToken(name), name, o.Addrs[name], nil
}

// InTime returns ErrTime unless t may be the time of a record.
func (o *Origin) InTime(t event.Time) error {
	if t <= 0 || o.Now != nil && t > o.Now().Add(attribute.MaxAhead) {
		return ErrTime
	}
	return nil
}

// sameHost compares host names without case. A name without dots is the same as a longer one
// that starts with it: sources differ in whether they give the domain.
func sameHost(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	shortA, _, longA := strings.Cut(a, ".")
	shortB, _, longB := strings.Cut(b, ".")
	return longA != longB && strings.EqualFold(shortA, shortB)
}

// HostToken returns a host's name as one subject token: lower case, with a hyphen for every
// byte besides letters, digits, hyphen and underscore of ASCII.
func HostToken(name string) string {
	name = name[:min(len(name), maxToken)]
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return mapToken(name)
		}
	}
	return name
}

func mapToken(name string) string {
	b := []byte(name)
	for i, c := range b {
		switch {
		case 'A' <= c && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			b[i] = '-'
		}
	}
	return string(b)
}

// SetID names a record by its facts, so that what is read twice is known. The nonce is what
// tells apart two records that are equal in everything else, such as a serial number.
func SetID(r *attribute.Record, nonce uint64) {
	var room [256]byte
	b := room[:0]
	b = append(b, r.Source...)
	b = append(b, 0)
	b = append(b, r.HostID...)
	b = append(b, 0, byte(r.Kind), byte(r.Proto))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time))
	b = binary.BigEndian.AppendUint64(b, nonce)
	b = binary.BigEndian.AppendUint32(b, r.Process.PID)
	b = appendAddrPort(b, r.Local)
	b = appendAddrPort(b, r.Remote)
	b = append(b, r.Query...)
	sum := sha256.Sum256(b)
	var text [32]byte
	hex.Encode(text[:], sum[:16])
	r.ID = string(text[:])
}

func appendAddrPort(b []byte, p netip.AddrPort) []byte {
	a := p.Addr().As16()
	if !p.Addr().IsValid() {
		a = [16]byte{}
	}
	return binary.BigEndian.AppendUint16(append(b, a[:]...), p.Port())
}

// Refusal is a record that could not be used: which format it was taken for, and why.
type Refusal struct {
	Format string
	Reason error
}

// Error returns "format: reason".
func (r *Refusal) Error() string { return fmt.Sprintf("%s: %v", r.Format, r.Reason) }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Reason }
