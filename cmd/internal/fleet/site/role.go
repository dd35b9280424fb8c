// Package site writes what a site needs to run its own nats-server for Portolan: the server's
// configuration, certificates for mutual TLS, and for everyone who connects a key of its own with
// the permissions of its role.
package site

import (
	"slices"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/fleet"
)

// Role is what somebody who connects is there for.
type Role string

// The roles.
const (
	Sensor        Role = "sensor"        // publishes hits, coverage and observations under its own name
	Worker        Role = "worker"        // correlates observations, publishes hits under its own name
	Enricher      Role = "enricher"      // reads hits and endpoint records, publishes later revisions
	Endpoint      Role = "endpoint"      // publishes endpoint records of its own host
	Subscriber    Role = "subscriber"    // reads hits, revisions, coverage and heartbeats
	Administrator Role = "administrator" // makes the streams, and everything else
)

// Permissions are the subjects that somebody may use. Both lists empty means all.
type Permissions struct {
	Publish, Subscribe []string
}

// workStream is the stream behind the bucket in which workers share out partitions.
const workStream = "KV_" + fleet.Bucket

// PermissionsOf returns what a role needs, for somebody of the given name: one token of a subject,
// see bus.ValidateSensor. Everyone has an inbox of its own, so that none reads another's answers.
func PermissionsOf(r Role, name string) Permissions {
	inbox := "_INBOX." + name + ".>"
	switch r {
	case Sensor:
		return Permissions{
			Publish: slices.Concat(
				[]string{
					"portolan.v1.hit.*." + name + ".*", "portolan.v1.cover." + name, "portolan.v1.stat." + name,
					"portolan.v1.obs.*." + name + ".*",
				},
				info(bus.HitsStream, bus.OpsStream, bus.EndpointStream, bus.ObservationsStream),
			),
			Subscribe: []string{inbox}, // acknowledgements
		}
	case Worker:
		return Permissions{
			Publish: slices.Concat(
				[]string{
					"portolan.v1.hit.*." + name + ".*", "portolan.v1.cover." + name, "portolan.v1.stat." + name,
					"$KV." + fleet.Bucket + ".>", "$JS.API.DIRECT.GET." + workStream + ".>", "$JS.API.STREAM.MSG.GET." + workStream,
					"$JS.FC." + workStream + ".>",
				},
				info(bus.HitsStream, bus.OpsStream, bus.EndpointStream),
				read(bus.ObservationsStream), read(workStream),
			),
			Subscribe: []string{inbox},
		}
	case Enricher:
		return Permissions{
			Publish: slices.Concat(
				[]string{
					"portolan.v1.enriched.*.*.*", "portolan.v1.cover." + name, "portolan.v1.stat." + name,
					"$JS.ACK." + bus.HitsStream + ".>", "$JS.ACK." + bus.EndpointStream + ".>",
					// What it publishes is made of one hit and its records, read by their numbers.
					"$JS.API.STREAM.MSG.GET." + bus.HitsStream, "$JS.API.STREAM.MSG.GET." + bus.EndpointStream,
				},
				info(bus.OpsStream), read(bus.HitsStream), read(bus.EndpointStream),
			),
			Subscribe: []string{"portolan.v1.hit.>", "portolan.v1.enriched.>", "portolan.v1.endpoint.>", inbox},
		}
	case Endpoint:
		return Permissions{
			Publish:   slices.Concat([]string{"portolan.v1.endpoint.*." + name}, info(bus.EndpointStream)),
			Subscribe: []string{inbox},
		}
	case Subscriber:
		return Permissions{
			Publish: slices.Concat(
				// Acknowledgements to a durable consumer that bears its name.
				[]string{"$JS.API.INFO", "$JS.ACK." + bus.HitsStream + "." + name + ".>", "$JS.ACK." + bus.OpsStream + "." + name + ".>"},
				read(bus.HitsStream), read(bus.OpsStream),
			),
			Subscribe: []string{
				"portolan.v1.hit.>", "portolan.v1.enriched.>", "portolan.v1.cover.>", "portolan.v1.stat.>", inbox,
				"_INBOX." + bus.DefaultConfig().Name + ".>", // what portolan watch calls itself
			},
		}
	}
	return Permissions{}
}

// info returns the subjects for looking at streams, not for making them.
func info(streams ...string) (list []string) {
	for _, s := range streams {
		list = append(list, "$JS.API.STREAM.INFO."+s)
	}
	return list
}

// read returns the subjects for looking at a stream and reading it with consumers of one's own. Not
// to delete any: those of others would be within reach, and the server tidies up by itself.
func read(stream string) []string {
	return append(info(stream),
		"$JS.API.CONSUMER.CREATE."+stream+".>",
		"$JS.API.CONSUMER.INFO."+stream+".*",
		"$JS.API.CONSUMER.MSG.NEXT."+stream+".*",
	)
}
