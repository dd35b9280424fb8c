package main

import "github.com/prometheus/client_golang/prometheus"

// metric describes one of ours. Units are base units; labels name parts of the sensor, never a host or a name
// that was looked up.
func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("portolan_"+name, help, labels, nil)
}

// What every command tells.
var (
	descBuildInfo     = metric("build_info", "1, with the version in labels.", "version", "goversion")
	descStartTime     = metric("start_time_seconds", "When it began, since 1970.")
	descReloadOK      = metric("config_last_reload_successful", "1 unless the configuration could not be read again.")
	descReloadTime    = metric("config_last_reload_success_timestamp_seconds", "When the configuration was read last, since 1970.")
	descNatsConnected = metric("nats_connected", "1 while there is a connection to a server.")
	descPublished     = metric("messages_total", "Messages by what became of them; stored ones were acknowledged by a stream.", "outcome")
	descMessagesLost  = metric("messages_lost_total", "Messages that no stream will get, by where they were lost.", "place")
	descPending       = metric("messages_pending", "Messages that wait for a stream.")
	descSpoolBytes    = metric("spool_bytes", "What waiting messages take on disk.")
	descSpoolCapacity = metric("spool_capacity_bytes", "What they may take on disk; beyond it, the oldest leads go first.")
	descSpoolFailing  = metric("spool_failing", "1 while the disk takes nothing.")
)

// What a sensor tells of its devices.
var (
	descFrames         = metric("frames_total", "Frames decoded.", "device", "ring")
	descFrameBytes     = metric("frame_bytes_total", "Bytes on the wire of descFrames decoded.", "device", "ring")
	descCapturedBytes  = metric("captured_bytes_total", "Bytes captured of descFrames decoded.", "device", "ring")
	descFramesLost     = metric("frames_lost_total", "Frames lost in the network card or in a ring.", "device", "place", "ring")
	descFramesReason   = metric("frames_by_reason_total", "Frames decoded, by what became of them.", "device", "reason")
	descFramesCut      = metric("frames_truncated_total", "Frames of which less was captured than was on the wire.", "device")
	descInterfaceErr   = metric("interface_errors_total", "Bad descFrames, as the network card counts them.", "device")
	descRingFrozen     = metric("ring_freezes_total", "Times that a ring was full.", "device", "ring")
	descRingGap        = metric("ring_longest_gap_seconds", "Longest time between two looks at a ring.", "device", "ring")
	descLinkDowns      = metric("link_downs_total", "Times that the link was found down.", "device")
	descReopens        = metric("reopens_total", "Times that a device came back and was opened anew.", "device")
	descDeviceGone     = metric("device_gone", "1 while the device is not there.", "device")
	descFilterInfo     = metric("filter_info", "1, with the kernel's filter and fan-out in labels.", "device", "filter", "fan_out")
	descFiltered       = metric("filter_frames_total", "Frames that an eBPF or XDP filter saw, by class and what it did.", "device", "class", "action")
	descTunnels        = metric("tunnels_total", "Tunnels taken apart, by kind.", "device", "kind")
	descDnsMessages    = metric("dns_messages_total", "DNS messages seen.", "device", "direction")
	descTcpOpenings    = metric("tcp_openings_total", "SYN and SYN+ACK descFrames seen.", "device", "direction")
	descDecoderEvicted = metric("decoder_evictions_total", "What the decoder forgot before its time.", "device", "table")
)

// What a sensor tells of what it made of the descFrames.
var (
	descLookups          = metric("lookups_total", "Lookups correlated.")
	descConnections      = metric("connections_total", "Connections correlated.")
	descExplained        = metric("connections_explained_total", "Connections that something explains without calculation.", "by")
	descTrials           = metric("trials_total", "Connections that hypotheses were tried on.", "kind")
	descInverted         = metric("events_inverted_total", "Events that came after a later one of the same client.")
	descLate             = metric("events_late_total", "Events too descLate to be put in order.")
	descClients          = metric("clients", "Clients remembered.")
	descTableBytes       = metric("table_bytes", "Memory that the table of descClients takes.")
	descTableCapacity    = metric("table_capacity_bytes", "Memory that the table of descClients may take.")
	descEvicted          = metric("correlator_evictions_total", "What the correlator forgot before its time.", "table")
	descHits             = metric("hits_total", "Final descHits.", "level")
	descHitsAllowed      = metric("hits_allowed_total", "Final descHits that an allow rule kept back.")
	descHitsRetracted    = metric("hits_retracted_total", "Hits taken back because a descLate packet descExplained them.")
	descDecoys           = metric("decoy_hits_total", "Hits of scrambled answers: what chance reaches.", "level")
	descCoverageState    = metric("coverage", "1 for the verdict on what can be judged, 0 for the others.", "verdict")
	descLastFrame        = metric("last_frame_timestamp_seconds", "Kernel's stamp of the latest frame, since 1970.")
	descLastLook         = metric("last_look_timestamp_seconds", "When these counts were taken, since 1970.")
	descWorkerParts      = metric("worker_partitions", "Parts of the descClients that this worker has.")
	descWorkerObserved   = metric("worker_observations_total", "Observations correlated.", "again")
	descWorkerLost       = metric("worker_batches_lost_total", "Batches of observations that never reached the stream.")
	descWorkerDamaged    = metric("worker_messages_damaged_total", "Messages that are no batch of observations.")
	descWorkerHits       = metric("worker_hits_total", "Hits descPublished, revisions included.")
	descObservationsLost = metric("observations_lost_total", "Batches of observations that did not reach the stream.")
	descObserved         = metric("observations_total", "Observations descPublished.")
)
