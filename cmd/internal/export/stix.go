package export

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
)

// STIX 2.1 (OASIS standard, 10 June 2021). The same hits give the same bundle, byte by byte: identifiers of observed
// things are made as section 2.9 says, those of all else likewise in a namespace of our own, and times are the hits'.

// stixObject is an object of any type; encoding/json writes its properties in alphabetical order.
type stixObject map[string]any

func (o stixObject) id() string { return o["id"].(string) }

// bundle gathers objects, each once.
type bundle struct {
	objects []stixObject
	seen    map[string]bool
}

func (b *bundle) add(o stixObject) string {
	if id := o.id(); !b.seen[id] {
		b.seen[id] = true
		b.objects = append(b.objects, o)
	}
	return o.id()
}

const (
	stixVersion = "2.1"
	stixForm    = "2006-01-02T15:04:05.000000Z"
	// stixEpoch is when what never changes was made.
	stixEpoch = "2026-01-01T00:00:00.000Z"
)

func stixTime(t time.Time) string { return t.UTC().Format(stixForm) }

// observed returns an observed thing; its id is made of the properties given, which are those that contribute to
// it (section 6). JSON of a map has sorted keys and, of plain text and whole numbers, the form of RFC 8785.
func observed(kind string, contributing stixObject) (stixObject, error) {
	var name strings.Builder
	enc := json.NewEncoder(&name)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(contributing); err != nil {
		return nil, err
	}
	o := stixObject{"type": kind, "spec_version": stixVersion, "id": kind + "--" + uuid(observedSpace(), strings.TrimSuffix(name.String(), "\n"))}
	for k, v := range contributing {
		o[k] = v
	}
	return o, nil
}

// domain returns an object of any other kind; name tells it from others of the kind.
func domain(kind, name, created, modified string, properties stixObject) stixObject {
	o := stixObject{
		"type": kind, "spec_version": stixVersion, "id": kind + "--" + uuid(ownSpace(), kind+"\x00"+name), "created": created, "modified": modified,
	}
	for k, v := range properties {
		o[k] = v
	}
	return o
}

// WriteSTIX writes hits as one STIX 2.1 bundle.
func WriteSTIX(w io.Writer, hits []*bus.Message) error {
	b := &bundle{seen: map[string]bool{}}
	tool := b.add(domain("identity", "portolan", stixEpoch, stixEpoch, stixObject{
		"name": "Portolan", "identity_class": "system", "description": "finds connections whose port or destination was calculated from DNS answers",
	}))
	technique := b.add(domain("attack-pattern", "T1568.003", stixEpoch, stixEpoch, stixObject{
		"name": "Dynamic Resolution: DNS Calculation", "created_by_ref": tool,
		"external_references": []stixObject{{
			"source_name": "mitre-attack", "external_id": "T1568.003", "url": "https://attack.mitre.org/techniques/T1568/003/",
		}},
		"kill_chain_phases": []stixObject{{"kill_chain_name": "mitre-attack", "phase_name": "command-and-control"}},
	}))
	for _, m := range hits {
		if err := b.hit(m, tool, technique); err != nil {
			return fmt.Errorf("hit %s: %w", m.Portolan.HitID, err)
		}
	}
	var names strings.Builder
	for _, o := range b.objects {
		names.WriteString(o.id())
		if at, ok := o["modified"].(string); ok {
			names.WriteString(at)
		}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(stixObject{"type": "bundle", "id": "bundle--" + uuid(ownSpace(), "bundle\x00"+names.String()), "objects": b.objects})
}

// hit adds what a hit says: what was seen, what it indicates, and that it was sighted.
func (b *bundle) hit(m *bus.Message, tool, technique string) error {
	p := &m.Portolan
	at := stixTime(m.Timestamp)
	sensor := b.add(domain("identity", "sensor\x00"+m.Observer.Name, stixEpoch, stixEpoch, stixObject{
		"name": "Portolan sensor " + m.Observer.Name, "identity_class": "system", "created_by_ref": tool,
	}))
	src, err := b.address(m.Source.IP)
	if err != nil {
		return err
	}
	dst, err := b.address(m.Destination.IP)
	if err != nil {
		return err
	}
	protocols := []string{m.Network.Type, m.Network.Transport}
	traffic, err := observed("network-traffic", stixObject{
		"start": at, "src_ref": src, "dst_ref": dst, "src_port": m.Source.Port, "dst_port": m.Destination.Port, "protocols": protocols,
	})
	if err != nil {
		return err
	}
	refs := []string{src, dst, b.add(traffic)}
	looked, err := b.lookup(m, tool)
	if err != nil {
		return err
	}
	for _, r := range looked {
		if r != src && r != dst {
			refs = append(refs, r)
		}
	}
	data := b.add(domain("observed-data", p.HitID, at, at, stixObject{
		"created_by_ref": tool, "first_observed": at, "last_observed": at, "number_observed": 1, "object_refs": refs,
	}))
	labels := []string{"portolan-" + p.Level}
	if p.Retro != nil {
		labels = append(labels, "retro")
	}
	kind := "ipv4-addr"
	if m.Destination.IP.Unmap().Is6() {
		kind = "ipv6-addr"
	}
	indicator := b.add(domain("indicator", p.HitID, at, at, stixObject{
		"created_by_ref": tool, "name": fmt.Sprintf("%s of %s", p.Calc.Name, m.Destination.IP), "description": m.Message,
		"indicator_types": []string{map[bool]string{true: "malicious-activity", false: "anomalous-activity"}[p.Level == "alert"]},
		"pattern": fmt.Sprintf("[network-traffic:dst_ref.type = '%s' AND network-traffic:dst_ref.value = '%s' AND network-traffic:dst_port = %d]",
			kind, m.Destination.IP.Unmap().WithZone(""), m.Destination.Port),
		"pattern_type": "stix", "pattern_version": stixVersion, "valid_from": at, "confidence": confidence(m), "labels": labels,
		"external_references": []stixObject{{"source_name": "portolan", "external_id": p.HitID, "description": p.Calc.Expression}},
	}))
	b.add(domain("relationship", p.HitID, at, at, stixObject{
		"created_by_ref": tool, "relationship_type": "indicates", "source_ref": indicator, "target_ref": technique,
	}))
	b.add(domain("sighting", p.HitID, at, at, stixObject{
		"created_by_ref": tool, "sighting_of_ref": indicator, "observed_data_refs": []string{data}, "where_sighted_refs": []string{sensor},
		"first_seen": at, "last_seen": at, "count": 1,
	}))
	return nil
}

// lookup adds the name and the answer that the operand came from, as far as they are known.
func (b *bundle) lookup(m *bus.Message, tool string) (refs []string, err error) {
	l := &m.Portolan.Lookup
	name, answer := "", ""
	if l.Name != "" && l.Name != "." {
		o, err := observed("domain-name", stixObject{"value": l.Name})
		if err != nil {
			return nil, err
		}
		name = b.add(o)
		refs = append(refs, name)
	}
	if l.Answer.IsValid() {
		if answer, err = b.address(l.Answer); err != nil {
			return nil, err
		}
		refs = append(refs, answer)
	}
	if name != "" && answer != "" {
		at := stixTime(l.Time)
		b.add(domain("relationship", name+answer, at, at, stixObject{
			"created_by_ref": tool, "relationship_type": "resolves-to", "source_ref": name, "target_ref": answer,
		}))
	}
	return refs, nil
}

// address adds an address.
func (b *bundle) address(a netip.Addr) (string, error) {
	a = a.Unmap().WithZone("")
	kind := "ipv6-addr"
	if a.Is4() {
		kind = "ipv4-addr"
	}
	o, err := observed(kind, stixObject{"value": a.String()})
	if err != nil {
		return "", err
	}
	return b.add(o), nil
}

// confidence returns a number from 0 to 100 by the e-value: a watch begins at 50, an alert at 85 (STIX, appendix A). What is
// retracted is not exported.
func confidence(m *bus.Message) int {
	const perTen = 35.0 / 3 // from 10^3 to 10^6
	if m.Portolan.Level == "lead" {
		return 15
	}
	return int(min(99, max(15, 50+perTen*(m.Portolan.Calc.EValueLog10-3))))
}
