package lab

import (
	"net/netip"
	"testing"
)

func TestTransformsAgreeWithGoldenVectors(t *testing.T) {
	for _, tt := range []struct {
		name      string
		transform func(netip.Addr) netip.Addr
		answer    string
		want      string
	}{
		{"Nymaim", nymaim, "84.15.72.201", "84.255.244.213"},
		{"Nymaim", nymaim, "109.158.209.148", "109.121.223.150"},
		{"Nymaim", nymaim, "14.234.0.124", "78.90.1.126"},
		{"Nymaim", nymaim, "250.210.187.100", "186.50.166.98"},
		{"Potassium", halfSwap, "87.243.45.156", "45.156.87.243"},
		{"Potassium", halfSwap, "34.245.45.153", "45.153.34.245"},
		{"Drifter", halfSwap, "253.229.172.232", "172.232.253.229"},
		{"XOR E7708E59 of zero", xorKnown, "0.0.0.0", "231.112.142.89"},
		{"XOR E7708E59 of itself", xorKnown, "231.112.142.89", "0.0.0.0"},
		{"reverse", reversed, "198.51.100.23", "23.100.51.198"},
	} {
		if got := tt.transform(netip.MustParseAddr(tt.answer)); got != netip.MustParseAddr(tt.want) {
			t.Errorf("%s of %s = %s, want %s", tt.name, tt.answer, got, tt.want)
		}
	}
}

func TestMulAddAgreesWithGoldenVector(t *testing.T) {
	for _, tt := range []struct {
		answer string
		want   uint16
	}{
		{"198.51.100.23", 10198},
		{"255.255.255.255", 65280},
	} {
		if got := mulAdd(netip.MustParseAddr(tt.answer)); got != tt.want {
			t.Errorf("a·b+c of %s = %d, want %d", tt.answer, got, tt.want)
		}
	}
}

func TestNymaimLeavesTheChecksumRecordAlone(t *testing.T) {
	others := []netip.Addr{
		netip.MustParseAddr("84.15.72.201"), netip.MustParseAddr("109.158.209.148"),
		netip.MustParseAddr("14.234.0.124"), netip.MustParseAddr("250.210.187.100"),
	}
	sum := nymaimChecksum(others)
	set := append([]netip.Addr{sum}, others...)
	got := nymaimContacts(set)
	if len(got) != len(others) {
		t.Fatalf("contacts of %v = %v, want %v", set, got, others)
	}
	for i := range got {
		if got[i] != others[i] {
			t.Errorf("contact %d = %s, want %s", i, got[i], others[i])
		}
	}
	if got := nymaimContacts(others); got != nil {
		t.Errorf("contacts of a set without checksum record = %v, want none", got)
	}
}

func TestTextRoundTrip(t *testing.T) {
	a := netip.MustParseAddr("198.51.100.23")
	s := textOf(a)
	if want := "DM3eqQ=="; s != want { // C6.33.64.17 XOR CA.FE.BA.BE
		t.Errorf("text of %s = %q, want %q", a, s, want)
	}
	if got, err := fromText(s); err != nil || got != a {
		t.Errorf("address of %q = %s, %v, want %s", s, got, err, a)
	}
	for _, bad := range []string{"", "!", "AAAA", "AAAAAAAA"} {
		if got, err := fromText(bad); err == nil {
			t.Errorf("address of %q = %s, want an error", bad, got)
		}
	}
}

func TestCalculated(t *testing.T) {
	a := netip.MustParseAddr("198.51.100.23")
	for _, tt := range []struct {
		port uint16
		want bool
	}{
		{10198, true},       // 198·51+100
		{0xd627, true},      // its bytes swapped
		{100<<8 | 23, true}, // c<<8|d
		{10199, false},
		{443, false},
	} {
		if got := calculated(a, tt.port); got != tt.want {
			t.Errorf("calculated(%s, %d) = %v, want %v", a, tt.port, got, tt.want)
		}
	}
}
