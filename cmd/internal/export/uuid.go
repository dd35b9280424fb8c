package export

import (
	"crypto/sha1" //nolint:gosec // UUIDv5 is made of it (RFC 9562, section 5.5)
	"encoding/hex"
)

// observedSpace is the namespace of observed things (STIX 2.1, section 2.9), ownSpace that of all else made here.
func observedSpace() [16]byte {
	return [16]byte{0x00, 0xab, 0xed, 0xb4, 0xaa, 0x42, 0x46, 0x6c, 0x9c, 0x01, 0xfe, 0xd2, 0x33, 0x15, 0xa9, 0xb7}
}

func ownSpace() [16]byte {
	return [16]byte{0x5d, 0x1f, 0xf4, 0xb0, 0x6b, 0x2c, 0x4a, 0x0e, 0x9c, 0x43, 0x6f, 0x3f, 0x0b, 0x0a, 0x2d, 0x11}
}

// uuid returns the UUIDv5 of a name in a namespace (RFC 9562, section 5.5).
func uuid(space [16]byte, name string) string {
	h := sha1.New() //nolint:gosec // as above
	h.Write(space[:])
	h.Write([]byte(name))
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	x := hex.EncodeToString(u)
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}
