package field

import (
	"math"
	"strconv"

	"portolan/sensor/event"
)

// Latest is the last moment that Seconds and Stamp take: the year 2200, beyond which a time is
// no time. The first is 1970.
const Latest event.Time = 7_258_118_400e9

// Seconds reads decimal seconds, such as 1597854321.123456 or 1.5e-05, as nanoseconds. Digits
// beyond those are cut off.
func Seconds(b []byte) (event.Time, bool) {
	v, i := int64(0), 0
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		if v = v*10 + int64(b[i]-'0'); v > int64(Latest/1e9) {
			return 0, false
		}
	}
	if i == 0 {
		return 0, false
	}
	v *= 1e9
	if i == len(b) {
		return event.Time(v), true
	}
	if b[i] == '.' {
		unit := int64(1e8)
		for i++; i < len(b) && b[i]-'0' <= 9; i++ {
			v += int64(b[i]-'0') * unit
			unit /= 10
		}
	}
	if i == len(b) {
		return event.Time(v), v <= int64(Latest)
	}
	const longest = 32
	if c := b[i]; c|0x20 != 'e' || len(b) > longest {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(f >= 0 && f <= float64(Latest/1e9)) {
		return 0, false
	}
	return event.Time(math.Round(f * 1e9)), true
}

// Stamp reads a date and time of day as in RFC 3339, with T or a space between the two, any
// number of digits of a fraction, and Z, +02:00, +0200 or nothing, which is UTC, at the end.
func Stamp(b []byte) (event.Time, bool) {
	if len(b) < 19 || b[4] != '-' || b[7] != '-' || b[10] != 'T' && b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	year, ok1 := digits(b[0:4])
	month, ok2 := digits(b[5:7])
	day, ok3 := digits(b[8:10])
	second, ok4 := Clock(b[11:19])
	if !ok1 || !ok2 || !ok3 || !ok4 || year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 {
		return 0, false
	}
	ns := int64(0)
	rest := b[19:]
	if len(rest) > 1 && (rest[0] == '.' || rest[0] == ',') {
		unit := int64(1e8)
		for rest = rest[1:]; len(rest) > 0 && rest[0]-'0' <= 9; rest = rest[1:] {
			ns += int64(rest[0]-'0') * unit
			unit /= 10
		}
	}
	offset, ok := zone(rest)
	if !ok {
		return 0, false
	}
	t := event.Time((Days(year, month, day)*86400+second-offset)*1e9 + ns)
	return t, t >= 0 && t <= Latest
}

// Clock reads a time of day, 15:04:05, as seconds. A leap second is the one after it.
func Clock(b []byte) (int64, bool) {
	if len(b) != 8 || b[2] != ':' || b[5] != ':' {
		return 0, false
	}
	h, ok1 := digits(b[0:2])
	m, ok2 := digits(b[3:5])
	s, ok3 := digits(b[6:8])
	return h*3600 + m*60 + s, ok1 && ok2 && ok3 && h < 24 && m < 60 && s <= 60
}

// zone reads an offset from UTC as seconds.
func zone(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) == 1 && b[0]|0x20 == 'z' {
		return 0, true
	}
	if b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	var h, m int64
	var ok1, ok2 bool
	switch {
	case len(b) == 5:
		h, ok1 = digits(b[1:3])
		m, ok2 = digits(b[3:5])
	case len(b) == 6 && b[3] == ':':
		h, ok1 = digits(b[1:3])
		m, ok2 = digits(b[4:6])
	}
	v := h*3600 + m*60
	if b[0] == '-' {
		v = -v
	}
	return v, ok1 && ok2 && h < 24 && m < 60
}

func digits(b []byte) (int64, bool) {
	v := int64(0)
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	return v, true
}

// Days returns the days from 1970-01-01 to a date of the Gregorian calendar, for years from 1970 on.
func Days(year, month, day int64) int64 {
	// Years begin in March here, so that the leap day is the last of one.
	if month -= 3; month < 0 {
		month += 12
		year--
	}
	return year*365 + year/4 - year/100 + year/400 + (month*153+2)/5 + day - 1 - 719468
}
