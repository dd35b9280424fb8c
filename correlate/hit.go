package correlate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"portolan/sensor/event"
)

// Level says how strong the evidence of a hit is (DETECTION, section 4).
type Level uint8

// The levels, weakest first.
const (
	None  Level = iota // below every threshold: never published
	Lead               // no arithmetic, but worth a look
	Watch              // e-value at or above Config.Watch
	Alert              // e-value at or above Config.Alert
)

var levelNames = [...]string{"none", "lead", "watch", "alert"}

// String returns the level's name in lower case, as it stands in subjects and messages.
func (l Level) String() string { return nameOf(levelNames[:], int(l)) }

// State says whether a hit may still change.
type State uint8

// The states of a hit.
const (
	Provisional State = iota // published at once; an event that is still on its way may change it
	Final                    // no event within Config.Hold can change it any more
	Retracted                // an event stamped earlier arrived later and took the evidence away
)

var stateNames = [...]string{"provisional", "final", "retracted"}

// String returns the state's name in lower case, as it stands in messages.
func (s State) String() string { return nameOf(stateNames[:], int(s)) }

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%d?", i)
}

// ID identifies a hit: 128 bits of a SHA-256 over facts of the packets alone, so that
// two sensors which saw the same packets name it alike.
type ID [16]byte

// String returns the ID as 32 hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what ID.String writes.
func ParseID(s string) (id ID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("hit %q: an id has 32 hex digits", s)
	}
	copy(id[:], b)
	return id, nil
}

// idOf returns the ID of the trial (client, destination, port). Neither the observation
// point nor a time goes into it, and no answer: which lookup explains a connection best
// may change while events still arrive, and the hit has to keep its name then.
func idOf(z event.Zone, client netip.Addr, proto event.Proto, dst netip.AddrPort) (id ID) {
	b := make([]byte, 0, 64)
	b = append(b, "portolan.hit/1\x00"...)
	b = binary.BigEndian.AppendUint16(b, uint16(z.Kind))
	b = binary.BigEndian.AppendUint32(b, z.ID)
	c, d := client.As16(), dst.Addr().As16()
	b = append(b, c[:]...)
	b = append(b, byte(proto))
	b = append(b, d[:]...)
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}

// Hit is a connection whose port or destination a hypothesis derives from an answer
// that its client was given. It owns everything it points to.
type Hit struct {
	ID       ID
	Revision uint32 // from 1; each revision is complete
	State    State
	Level    Level

	Zone       event.Zone
	Client     netip.Addr
	Connection event.Connection
	Lookup     Source
	Calc       Calc
	Baseline   Baseline
	Coverage   Coverage
}

// Source is the lookup that gave the operand.
type Source struct {
	Time   event.Time // of the newest lookup with this answer not later than the connection
	Lag    time.Duration
	Name   string         // QNAME; empty when memory no longer held it
	Answer netip.Addr     // as it stood in the record; invalid for TXT
	Via    string         // how the operand was read from the record: "a", "aaaa", "aaaa[12:16]", "txt-plain", "txt-hex", "txt-base64"
	TTL    uint32         // seconds
	Server netip.AddrPort // resolver; invalid when memory no longer held it
}

// Kind says what a hypothesis calculates.
type Kind uint8

// What can be calculated.
const (
	Port    Kind = iota // the port, from the answer that is the destination
	Address             // the destination, from an answer that is not
)

// String returns "port" or "address".
func (k Kind) String() string {
	if k == Port {
		return "port"
	}
	return "address"
}

// Match is one hypothesis that predicts the connection.
type Match struct {
	Hypothesis string     // id in the catalogue, such as "P1"
	Name       string     // such as "mul-add"
	Expression string     // the arithmetic with the numbers put in, such as "198·51+100 = 10198"
	Operand    netip.Addr // the address that went into the arithmetic
	EValue     float64    // this hypothesis' own share of Calc.EValue, prior weight included
}

// Calc is the arithmetic of a hit and the weight of evidence.
type Calc struct {
	Kind Kind
	Match
	EValue       float64 // mixture over all hypotheses of this kind
	Chance       float64 // probability that one trial such as this, drawn from the baseline, matches any hypothesis of its kind
	Hypotheses   int     // how many were tried on this connection
	Answers      int     // how many distinct answers competed to be the operand
	Constants    int     // with a constant that was learned: how many were remembered, of which any could have fitted
	Alternatives []Match // others that predict the same connection, heaviest first; at most 8
	// Support: trials that the same hypothesis predicted for this client, this one included.
	SupportTrials  int
	SupportAnswers int // distinct operands among them
}

// Baseline says how ordinary what the client did is without any calculation.
type Baseline struct {
	Model  string  // "fixed-prior", or "learned" when the client's history or its zone's goes in
	Chance float64 // predictive probability of the port, or of the destination, in one trial
	Trials uint64  // trials of this kind the client had made before this one
}

// Coverage says how far this client's traffic could be judged.
type Coverage struct {
	Connections uint64 // of this client, since it is remembered
	Explained   uint64 // of those, to an address that a lookup seen here gave
	Lookups     uint64 // of this client, since it is remembered
	Late        uint64 // events of this client that came later than Config.Hold
	Forgotten   uint64 // answers of this client that made room for newer ones
	Gated       bool   // the client walks through many destinations: constants are not learned from it
}

// Share returns the share of the client's connections that a lookup explains, from 0 to 1.
func (c Coverage) Share() float64 {
	if c.Connections == 0 {
		return 0
	}
	return float64(c.Explained) / float64(c.Connections)
}
