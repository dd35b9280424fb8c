// Package export writes hits in forms that other tools take: STIX 2.1, CSV, and the mapping of fields that
// Sigma rules go by.
package export
