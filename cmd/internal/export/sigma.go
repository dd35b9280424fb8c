package export

import (
	"fmt"
	"io"
	"strings"
)

// sigmaField is a field of Sigma's taxonomy and where it stands in a hit.
type sigmaField struct{ sigma, hit string }

// sigmaFields returns the fields of the categories network_connection, firewall and dns that a hit has.
func sigmaFields() []sigmaField {
	return []sigmaField{
		{"SourceIp", "source.ip"}, {"SourcePort", "source.port"}, {"DestinationIp", "destination.ip"}, {"DestinationPort", "destination.port"},
		{"Protocol", "network.transport"},
		{"src_ip", "source.ip"}, {"src_port", "source.port"}, {"dst_ip", "destination.ip"}, {"dst_port", "destination.port"},
		{"QueryName", "dns.question.name"}, {"query", "dns.question.name"}, {"record_type", "dns.question.type"}, {"answer", "dns.resolved_ip"},
		{"Computer", "observer.name"},
	}
}

// WriteSigmaMap writes a processing pipeline, as converters of Sigma rules take it, that calls the fields of network rules
// what they are called in hits.
func WriteSigmaMap(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`name: Portolan hits
priority: 50
transformations:
  - id: portolan_fields
    type: field_name_mapping
    mapping:
`)
	for _, f := range sigmaFields() {
		fmt.Fprintf(&b, "      %s: %s\n", f.sigma, f.hit)
	}
	b.WriteString(`    rule_cond_op: or
    rule_conditions:
      - type: logsource
        category: network_connection
      - type: logsource
        category: firewall
      - type: logsource
        category: dns
  - id: portolan_dataset
    type: add_condition
    conditions:
      event.dataset: portolan.hit
    rule_conditions:
      - type: logsource
        product: portolan
        service: hit
`)
	_, err := io.WriteString(w, b.String())
	return err
}
