package coverage

// dohAddresses are where large public resolvers serve DNS over HTTPS, by what they publish of themselves. Others are
// found when a client looks one of dohNames up.
var dohAddresses = []string{
	"1.1.1.1", "1.0.0.1", "1.1.1.2", "1.0.0.2", "1.1.1.3", "1.0.0.3", // Cloudflare
	"2606:4700:4700::1111", "2606:4700:4700::1001",
	"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844", // Google
	"9.9.9.9", "149.112.112.112", "9.9.9.10", "9.9.9.11", "2620:fe::fe", "2620:fe::9", // Quad9
	"208.67.222.222", "208.67.220.220", "146.112.41.2", // Cisco Umbrella, OpenDNS
	"94.140.14.14", "94.140.15.15", "2a10:50c0::ad1:ff", "2a10:50c0::ad2:ff", // AdGuard
	"185.228.168.9", "185.228.168.168", "185.228.169.9", // CleanBrowsing
	"76.76.2.0", "76.76.10.0", // Control D
	"45.90.28.0", "45.90.30.0", // NextDNS
	"194.242.2.2", "194.242.2.3", // Mullvad
	"185.222.222.222", "45.11.45.11", // DNS.SB
	"223.5.5.5", "223.6.6.6", // AliDNS
	"119.29.29.29", "1.12.12.12", "120.53.53.53", // DNSPod
}

// dohNames are names under which DNS over HTTPS is served.
var dohNames = map[string]struct{}{
	"cloudflare-dns.com": {}, "one.one.one.one": {}, "mozilla.cloudflare-dns.com": {}, "chrome.cloudflare-dns.com": {},
	"security.cloudflare-dns.com": {}, "family.cloudflare-dns.com": {}, "1dot1dot1dot1.cloudflare-dns.com": {},
	"dns.google": {}, "dns64.dns.google": {},
	"dns.quad9.net": {}, "dns9.quad9.net": {}, "dns10.quad9.net": {}, "dns11.quad9.net": {},
	"doh.opendns.com": {}, "doh.familyshield.opendns.com": {}, "doh.umbrella.com": {},
	"dns.adguard-dns.com": {}, "unfiltered.adguard-dns.com": {}, "family.adguard-dns.com": {}, "dns.adguard.com": {},
	"doh.cleanbrowsing.org": {}, "dns.nextdns.io": {}, "firefox.dns.nextdns.io": {}, "chromium.dns.nextdns.io": {}, "doh.dns.apple.com": {},
	"dns.mullvad.net": {}, "base.dns.mullvad.net": {}, "doh.dns.sb": {}, "freedns.controld.com": {}, "dns.controld.com": {},
	"dns.alidns.com": {}, "doh.pub": {}, "doh.360.cn": {}, "doh.xfinity.com": {}, "doh.libredns.gr": {}, "dns.digitale-gesellschaft.ch": {},
	"doh.ffmuc.net": {}, "doh.applied-privacy.net": {}, "odvr.nic.cz": {}, "dns.switch.ch": {}, "dns.njal.la": {}, "wikimedia-dns.org": {},
	"dns0.eu": {}, "zero.dns0.eu": {}, "dns.twnic.tw": {}, "dns.rabbitdns.org": {},
}
