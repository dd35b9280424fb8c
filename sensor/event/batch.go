package event

// BatchSink takes the events of a ring some hundred at a time, so that what they cost once
// is not paid for each: a lock, a wait for memory.
type BatchSink interface {
	// Batch takes events in the order in which they were decoded. The batch and all that
	// it refers to hold until it returns. One goroutine at a time calls it.
	Batch(*Batch)
}

// Batch is a Sink that keeps events, in the order in which they came. It owns a copy of all
// that they refer to, in memory that Reset lets it use again: once it has grown to what
// its owner puts in, it allocates nothing. The zero value is empty. It is for one goroutine.
type Batch struct {
	lookups     []Lookup
	connections []Connection
	namings     []Naming
	places      []int32 // of the namings: how many events came before
	order       []int32 // a place in connections, or the complement of one in lookups
	records     []Record
	bytes       []byte
}

// Bounds after which a batch is Full. One message over TCP can add some thousand records.
const (
	fullEvents  = 2048
	fullRecords = 8192
	fullBytes   = 256 << 10
)

// Len returns the number of events.
func (b *Batch) Len() int { return len(b.order) }

// Empty reports whether the batch holds nothing, neither events nor namings.
func (b *Batch) Empty() bool { return len(b.order)+len(b.namings) == 0 }

// Full reports whether the batch is to be handed on before more is put in. It goes on to
// take events all the same.
func (b *Batch) Full() bool {
	return len(b.order)+len(b.namings) >= fullEvents || len(b.records) >= fullRecords || len(b.bytes) >= fullBytes
}

// Bytes returns about how much memory the events take.
func (b *Batch) Bytes() int {
	const lookup, connection, record = 232, 136, 112
	return len(b.lookups)*lookup + len(b.connections)*connection + len(b.records)*record + len(b.order)*4 + len(b.bytes)
}

// At returns the ith event: one of the two, the other is nil. It holds until Reset.
func (b *Batch) At(i int) (*Lookup, *Connection) {
	if n := b.order[i]; n < 0 {
		return &b.lookups[^n], nil
	} else {
		return nil, &b.connections[n]
	}
}

// Each hands every event to a sink, in order.
func (b *Batch) Each(to Sink) {
	for i := range b.order {
		if l, c := b.At(i); l != nil {
			to.Lookup(l)
		} else {
			to.Connection(c)
		}
	}
}

// Lookups and Connections return the events of one kind, in order. They hold until Reset.
func (b *Batch) Lookups() []Lookup { return b.lookups }

// Connections returns the connections, in order. They hold until Reset.
func (b *Batch) Connections() []Connection { return b.connections }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.lookups, b.connections, b.order = b.lookups[:0], b.connections[:0], b.order[:0]
	b.namings, b.places, b.records, b.bytes = b.namings[:0], b.places[:0], b.records[:0], b.bytes[:0]
}

// Namings returns what frames said of hosts, in order. It stands apart from the events, which
// Len counts and At returns: most who take a batch do not want it. It holds until Reset.
func (b *Batch) Namings() []Naming { return b.namings }

// EachNaming hands to a sink the namings from the ith on that were put in before event n, and
// returns the number of the next.
func (b *Batch) EachNaming(to NamingSink, i, n int) int {
	for i < len(b.namings) && int(b.places[i]) <= n {
		to.Naming(&b.namings[i])
		i++
	}
	return i
}

// Naming puts a copy of n in.
func (b *Batch) Naming(n *Naming) {
	b.places = append(b.places, int32(len(b.order)))
	b.namings = append(b.namings, *n)
	b.namings[len(b.namings)-1].Name = b.keep(n.Name)
}

// Connection puts a copy of c in.
func (b *Batch) Connection(c *Connection) {
	b.order = append(b.order, int32(len(b.connections)))
	b.connections = append(b.connections, *c)
}

// Lookup puts a copy of l in, with all that it refers to.
func (b *Batch) Lookup(l *Lookup) {
	b.order = append(b.order, ^int32(len(b.lookups)))
	b.lookups = append(b.lookups, *l)
	// What is cut from records and bytes stays valid when append moves them elsewhere.
	first := len(b.records)
	b.records = append(b.records, l.Records...)
	name := b.keep(l.Name)
	owner, kept := l.Name, name // most records are owned by the name that was asked for, or by the last one's owner
	records := b.records[first:len(b.records):len(b.records)]
	for i := range records {
		r := &records[i]
		if !same(r.Owner, owner) {
			owner = r.Owner
			kept = b.keep(owner)
		}
		r.Owner = kept
		r.Target, r.Text = b.keep(r.Target), b.keep(r.Text)
	}
	to := &b.lookups[len(b.lookups)-1]
	to.Name, to.Records = name, records
}

// keep returns a copy of s; nil of nothing.
func (b *Batch) keep(s []byte) []byte {
	if len(s) == 0 {
		return nil
	}
	first := len(b.bytes)
	b.bytes = append(b.bytes, s...)
	return b.bytes[first:len(b.bytes):len(b.bytes)]
}

// same reports whether a and b are the same bytes in memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
