// Package watch tells whether a key spends far more than it used to. It is one
// pure function of what the key spent in the hours before: [Rule.Judge]. It
// refuses to know where that is kept, and what is done about it.
package watch

import (
	"slices"
	"time"
)

// A Rule says what is too much. The zero value of each field is its default.
type Rule struct {
	// Factor is how many times the baseline a key may spend within an hour. Zero
	// means 10.
	Factor float64

	// Floor is what is never too much, in tokens an hour: small sums vary. Zero
	// means 100,000.
	Floor int64

	// ColdHours is how many hours a key must have spent in before it has a
	// baseline. Zero means 24.
	ColdHours int

	// ColdCeiling is what a key without a baseline may spend, in tokens an hour.
	// Zero: as much as it likes.
	ColdCeiling int64
}

// Defaults of [Rule].
const (
	DefaultFactor    = 10
	DefaultFloor     = 100_000
	DefaultColdHours = 24
)

// History is how far back the baseline reaches.
const History = 28 * 24 * time.Hour

const (
	week      = 7 * 24 * time.Hour
	weeks     = int(History / week)
	weeksWant = 3 // Of the weeks before, in which the hour of the week must have been one of spending.
)

// An Hour is what a key spent within one.
type Hour struct {
	Start  time.Time
	Tokens int64
}

// A Verdict is what a rule says of a key.
type Verdict struct {
	Rate      int64 // Tokens within the last hour.
	Baseline  int64 // What is usual; 0 for a key without a baseline.
	Threshold int64 // More is too much; 0: nothing is.
	Crossed   bool
}

func (r Rule) defaults() Rule {
	if r.Factor == 0 {
		r.Factor = DefaultFactor
	}
	if r.Floor == 0 {
		r.Floor = DefaultFloor
	}
	if r.ColdHours == 0 {
		r.ColdHours = DefaultColdHours
	}
	return r
}

// Judge judges a key at now by the hours in which it spent, the oldest first, up
// to the present one.
func (r Rule) Judge(hours []Hour, now time.Time) Verdict {
	r = r.defaults()
	present := now.Truncate(time.Hour)
	before := hours
	var this, last int64
	for len(before) > 0 && !before[len(before)-1].Start.Before(present) {
		this += before[len(before)-1].Tokens
		before = before[:len(before)-1]
	}
	if n := len(before); n > 0 && before[n-1].Start.Equal(present.Add(-time.Hour)) {
		last = before[n-1].Tokens
	}
	return r.judge(rate(this, last, now.Sub(present)), before, present)
}

// rate is what was spent within the last hour, about: of the hour before, as much
// as is left of it if it was spent evenly.
func rate(this, last int64, passed time.Duration) int64 {
	return this + int64(float64(last)*(1-passed.Hours()))
}

// JudgeHour judges a key by what it spent in an hour that is over, and the hours
// before it.
func (r Rule) JudgeHour(before []Hour, h Hour) Verdict {
	return r.defaults().judge(h.Tokens, before, h.Start)
}

func (r Rule) judge(rate int64, before []Hour, present time.Time) Verdict {
	v := Verdict{Rate: rate}
	var ok bool
	if v.Baseline, ok = baseline(before, present, r.ColdHours); ok {
		v.Threshold = max(r.Floor, int64(r.Factor*float64(v.Baseline)))
	} else if r.ColdCeiling > 0 {
		v.Threshold = max(r.Floor, r.ColdCeiling)
	}
	v.Crossed = v.Threshold > 0 && v.Rate > v.Threshold
	return v
}

// baseline is what is usual in an hour: in that hour of the week and its
// neighbours, if most weeks have spent then, or else in any hour of spending.
func baseline(before []Hour, present time.Time, cold int) (tokens int64, ok bool) {
	from, _ := slices.BinarySearchFunc(before, present.Add(-History), func(h Hour, t time.Time) int { return h.Start.Compare(t) })
	before = before[from:]
	if len(before) < cold {
		return 0, false
	}
	var usual []int64
	for n := 1; n <= weeks; n++ {
		sum, hours := int64(0), int64(0)
		around := present.Add(-time.Duration(n) * week)
		for _, h := range before {
			if d := h.Start.Sub(around); -time.Hour <= d && d <= time.Hour && h.Tokens > 0 {
				sum, hours = sum+h.Tokens, hours+1
			}
		}
		if hours > 0 {
			usual = append(usual, sum/hours)
		}
	}
	if len(usual) >= weeksWant {
		slices.Sort(usual)
		return max(1, usual[len(usual)/2]), true
	}
	return max(1, upperMean(before)), true
}

// upperMean is the mean of the upper half, without the highest twentieth: what a
// busy hour has, and no burst of one day.
func upperMean(hours []Hour) int64 {
	tokens := make([]int64, len(hours))
	for i, h := range hours {
		tokens[i] = h.Tokens
	}
	slices.Sort(tokens)
	n := len(tokens)
	tokens = tokens[n/2 : max(n/2+1, n-(n+19)/20)]
	sum := int64(0)
	for _, t := range tokens {
		sum += t
	}
	return sum / int64(len(tokens))
}
