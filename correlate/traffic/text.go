package traffic

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// addTXT adds the families whose answer is text: the address as it is, in hex, in base64,
// XORed or not, with the port behind it or not.
func addTXT(add adder) {
	text := func(id, name string, withPort bool, write func(b, y []byte) []byte, key uint32) {
		add("T:"+id, "TXT", name, false, func(d *dice, _ *campaign, p *plan) bool {
			p.record = recordTXT
			p.dst = publicOf(d.Uint64())
			w := p.dst ^ key
			y := []byte{byte(w >> 24), byte(w >> 16), byte(w >> 8), byte(w)}
			if withPort {
				p.port = uint16(d.in(1024, 65535))
				y = append(y, byte(p.port>>8), byte(p.port))
			}
			p.txt = write(p.txt, y)
			return true
		})
	}
	plain := func(b, y []byte) []byte {
		b = fmt.Appendf(b, "%d.%d.%d.%d", y[0], y[1], y[2], y[3])
		if len(y) == 6 {
			b = fmt.Appendf(b, ":%d", int(y[4])<<8|int(y[5]))
		}
		return b
	}
	text("txt-plain:A0", "txt, plain", false, plain, 0)
	text("txt-plain:A0:port", "txt, plain with port", true, plain, 0)
	text("txt-hex:A0", "txt, hex", false, hex.AppendEncode, 0)
	text("txt-hex:A3:DEADBEEF", "txt, hex, xor-known", false, hex.AppendEncode, 0xDEADBEEF)
	text("txt-base64:A0", "txt, base64", false, base64.StdEncoding.AppendEncode, 0)
	text("txt-base64:A0:port", "txt, base64 with port", true, base64.StdEncoding.AppendEncode, 0)
	text("txt-base64:A3:CAFEBABE", "txt, base64, xor-known", false, base64.StdEncoding.AppendEncode, 0xCAFEBABE)
	text("txt-base64:A3:E7708E59", "txt, base64, xor-known", false, base64.StdEncoding.AppendEncode, 0xE7708E59)
}
