package coverage

// Hit is what has to be known of a hit to say what coverage does to it.
type Hit struct {
	Alert bool
	// Absent is true of a lead that rests on nothing but that no lookup explains destinations. The match of a
	// calculation is evidence by itself: it would not fit better if more lookups were seen.
	Absent bool
}

// Judge says what becomes of a hit: muted, when it rests on the absence of lookups that this client, or the
// whole mirror, does not show; downgraded from an alert to a watch on Blind coverage, by the rule and for the reason
// returned.
func (a *Assessment) Judge(h Hit, c *ClientView) (muted, downgraded bool, rule, why string) {
	switch {
	case h.Absent && a.Verdict == Blind:
		return true, false, a.Rule(), a.Findings[0].Evidence
	case h.Absent && (c.Elsewhere() || c.Resolver()):
		return true, false, "client", c.Why()
	case h.Alert && a.Verdict == Blind:
		return false, true, a.Rule(), a.Findings[0].Evidence
	}
	return false, false, "", ""
}
