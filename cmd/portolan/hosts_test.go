package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"portolan/cmd/internal/bus"
)

// TestHitNamesHost puts a DHCP exchange and ARP in front of a capture: its hit says what the client
// is called, and until when it holds its address.
func TestHitNamesHost(t *testing.T) {
	capture, err := os.ReadFile(filepath.Join("..", "..", "testdata", "pcap", "half-swap.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewReader(bytes.NewReader(capture))
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w := pcapgo.NewWriterNanos(&file)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	write := func(at time.Time, b []byte) {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(b), Length: len(b)}, b); err != nil {
			t.Fatal(err)
		}
	}
	for first := true; ; first = false {
		b, info, err := r.ReadPacketData()
		if err != nil {
			break
		}
		if first {
			write(info.Timestamp.Add(-2*time.Second), dhcpFrame(t, layers.DHCPMsgTypeRequest))
			write(info.Timestamp.Add(-time.Second), dhcpFrame(t, layers.DHCPMsgTypeAck))
		}
		write(info.Timestamp, b)
	}
	path := filepath.Join(t.TempDir(), "named.pcap")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out := outputOf(t, "replay", "--json", path)
	var m bus.Message
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&m); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	h := m.Portolan.Attribution.Host
	if h == nil || len(h.Names) != 1 || h.Names[0].Name != "lab-pc21" || h.MAC != "02-00-00-00-00-15" || h.Via != "dhcp" || h.Lease == nil {
		t.Errorf("the client's host is %+v", h)
	}
}

// dhcpFrame is a message between the client of half-swap.pcap and its server.
func dhcpFrame(t *testing.T, kind layers.DHCPMsgType) []byte {
	t.Helper()
	client := net.HardwareAddr{2, 0, 0, 0, 0, 0x15}
	m := &layers.DHCPv4{Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, ClientHWAddr: client,
		ClientIP: net.IPv4zero, YourClientIP: net.IPv4zero, NextServerIP: net.IPv4zero, RelayAgentIP: net.IPv4zero,
		Options: layers.DHCPOptions{layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(kind)})}}
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4zero, DstIP: net.IPv4bcast}
	udp := &layers.UDP{SrcPort: 68, DstPort: 67}
	if kind == layers.DHCPMsgTypeAck {
		m.Operation, m.YourClientIP = layers.DHCPOpReply, net.IPv4(10, 0, 0, 21)
		m.Options = append(m.Options, layers.NewDHCPOption(layers.DHCPOptLeaseTime, []byte{0, 0, 14, 16}))
		ip.SrcIP, udp.SrcPort, udp.DstPort = net.IPv4(10, 0, 0, 1), 67, 68
	} else {
		m.Options = append(m.Options, layers.NewDHCPOption(layers.DHCPOptHostname, []byte("lab-pc21")))
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: client, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4}, ip, udp, m)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
