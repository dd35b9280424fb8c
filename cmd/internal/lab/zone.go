package lab

import (
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// zone is what the DNS server knows. It is safe for concurrent use once it is filled.
type zone struct {
	mu   sync.Mutex
	sets map[question]*turn
	name map[string]bool // that exist, whatever their types
}

type question struct {
	name string // lower case, with the last dot
	typ  uint16
}

// turn is the RRsets of one name and type. Each lookup gets the next of them.
type turn struct {
	sets [][]dns.RR
	next int
}

// maxChain bounds how many CNAMEs an answer follows.
const maxChain = 8

func newZone() *zone {
	return &zone{sets: make(map[question]*turn), name: make(map[string]bool)}
}

// add adds an RRset, which has at least one record. A second one of the same name and type waits
// for its turn.
func (z *zone) add(set []dns.RR) {
	h := set[0].Header()
	q := question{h.Name, h.Rrtype}
	if z.sets[q] == nil {
		z.sets[q] = new(turn)
	}
	z.sets[q].sets = append(z.sets[q].sets, set)
	z.name[h.Name] = true
}

// answer returns the answer section for a question and its RCODE.
func (z *zone) answer(name string, typ uint16) (rrs []dns.RR, rcode int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	name = strings.ToLower(name)
	if !z.name[name] {
		return nil, dns.RcodeNameError
	}
	for range maxChain {
		if set := z.takeLocked(question{name, typ}); set != nil {
			return append(rrs, set...), dns.RcodeSuccess
		}
		alias := z.takeLocked(question{name, dns.TypeCNAME})
		if alias == nil {
			break
		}
		rrs = append(rrs, alias...)
		name = alias[0].(*dns.CNAME).Target
	}
	return rrs, dns.RcodeSuccess
}

func (z *zone) takeLocked(q question) []dns.RR {
	t := z.sets[q]
	if t == nil {
		return nil
	}
	set := t.sets[t.next]
	t.next = (t.next + 1) % len(t.sets)
	return set
}

// ServeDNS answers one query (miekg/dns calls it from many goroutines).
func (z *zone) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(query)
	m.RecursionAvailable = true
	m.Compress = true
	if len(query.Question) == 1 {
		q := query.Question[0]
		m.Answer, m.Rcode = z.answer(q.Name, q.Qtype)
	} else {
		m.Rcode = dns.RcodeFormatError
	}
	size := dns.MinMsgSize
	if opt := query.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
		m.SetEdns0(opt.UDPSize(), false)
	}
	if w.RemoteAddr().Network() == "udp" {
		m.Truncate(size) // sets TC when something had to go; the client comes back over TCP
	}
	// A client that has gone away is its own affair: it waits for the answer and reports.
	_ = w.WriteMsg(m)
}
