package watch_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/watch"
)

var monday = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// workdays are hours of spending from 8 to 17 o'clock, on the days before monday.
func workdays(days int, tokens int64) (hours []watch.Hour) {
	for d := days; d >= 1; d-- {
		for h := range 10 {
			hours = append(hours, watch.Hour{Start: monday.Truncate(24*time.Hour).AddDate(0, 0, -d).Add(time.Duration(8+h) * time.Hour), Tokens: tokens})
		}
	}
	return hours
}

func TestJudge(t *testing.T) {
	today := func(tokens ...int64) (hours []watch.Hour) { // The last one is the present hour.
		for i, n := range tokens {
			hours = append(hours, watch.Hour{Start: monday.Add(-time.Duration(len(tokens)-1-i) * time.Hour), Tokens: n})
		}
		return hours
	}
	for _, tt := range []struct {
		name   string
		rule   watch.Rule
		before []watch.Hour
		today  []watch.Hour
		passed time.Duration // Of the present hour.
		want   watch.Verdict
	}{
		{"as ever", watch.Rule{}, workdays(28, 50_000), today(50_000), time.Hour - 1, watch.Verdict{Rate: 50_000, Baseline: 50_000, Threshold: 500_000}},
		{"ten times", watch.Rule{}, workdays(28, 50_000), today(500_000), time.Minute, watch.Verdict{Rate: 500_000, Baseline: 50_000, Threshold: 500_000}},
		{"a token more", watch.Rule{}, workdays(28, 50_000), today(500_001), time.Minute, watch.Verdict{Rate: 500_001, Baseline: 50_000, Threshold: 500_000, Crossed: true}},
		{"over the turn of the hour", watch.Rule{}, workdays(28, 50_000), today(400_000, 200_000), 15 * time.Minute, watch.Verdict{Rate: 500_000, Baseline: 50_000, Threshold: 500_000}},
		{"below the floor", watch.Rule{}, workdays(28, 10), today(100_000), time.Minute, watch.Verdict{Rate: 100_000, Baseline: 10, Threshold: 100_000}},
		{"above the floor", watch.Rule{}, workdays(28, 10), today(100_001), time.Minute, watch.Verdict{Rate: 100_001, Baseline: 10, Threshold: 100_000, Crossed: true}},
		{"another factor and floor", watch.Rule{Factor: 2, Floor: 5}, workdays(28, 10), today(21), time.Minute, watch.Verdict{Rate: 21, Baseline: 10, Threshold: 20, Crossed: true}},
		{"too little to go by", watch.Rule{}, workdays(2, 10), today(1 << 40), time.Minute, watch.Verdict{Rate: 1 << 40}},
		{"too little, with a ceiling", watch.Rule{ColdCeiling: 1_000_000}, workdays(2, 10), today(1_000_001), time.Minute, watch.Verdict{Rate: 1_000_001, Threshold: 1_000_000, Crossed: true}},
		{"just enough", watch.Rule{}, workdays(3, 50_000), today(500_001), time.Minute, watch.Verdict{Rate: 500_001, Baseline: 50_000, Threshold: 500_000, Crossed: true}},
		{"nothing at all", watch.Rule{}, nil, nil, time.Minute, watch.Verdict{}},
		{"long ago does not count", watch.Rule{}, []watch.Hour{{Start: monday.AddDate(0, 0, -29), Tokens: 1}}, today(5), time.Minute, watch.Verdict{Rate: 5}},
	} {
		if got := tt.rule.Judge(append(tt.before, tt.today...), monday.Add(tt.passed)); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestHourOfWeek goes by the hour of the week where it can: what is usual on a
// Monday morning is too much on a Sunday night.
func TestHourOfWeek(t *testing.T) {
	var hours []watch.Hour
	for d := 28; d >= 1; d-- {
		at := monday.AddDate(0, 0, -d)
		tokens := int64(20_000)
		if at.Weekday() == time.Monday {
			tokens = 900_000
		}
		hours = append(hours, watch.Hour{Start: at, Tokens: tokens})
	}
	if v := (watch.Rule{}).JudgeHour(hours, watch.Hour{Start: monday, Tokens: 1_000_000}); v.Crossed || v.Baseline != 900_000 {
		t.Errorf("on a Monday: %+v", v)
	}
	if v := (watch.Rule{}).JudgeHour(hours, watch.Hour{Start: monday.AddDate(0, 0, 1), Tokens: 1_000_000}); !v.Crossed || v.Baseline != 20_000 {
		t.Errorf("on a Tuesday: %+v", v)
	}
}

// TestOneBurst does not let what was once too much become what is usual.
func TestOneBurst(t *testing.T) {
	hours := workdays(10, 50_000)
	hours[37].Tokens = 1 << 40
	if v := (watch.Rule{}).Judge(append(hours, watch.Hour{Start: monday, Tokens: 600_000}), monday.Add(time.Minute)); !v.Crossed || v.Baseline != 50_000 {
		t.Errorf("after a burst: %+v", v)
	}
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var hours []watch.Hour
		at := monday.Add(-watch.History)
		for range rapid.IntRange(0, 120).Draw(t, "hours") {
			at = at.Add(time.Duration(rapid.IntRange(1, 5).Draw(t, "pause")) * time.Hour)
			hours = append(hours, watch.Hour{Start: at, Tokens: rapid.Int64Range(1, 1_000_000).Draw(t, "tokens")})
		}
		present := watch.Hour{Start: at.Add(time.Hour), Tokens: rapid.Int64Range(0, 20_000_000).Draw(t, "present")}
		rule := watch.Rule{Floor: rapid.Int64Range(1, 200_000).Draw(t, "floor")}
		v := rule.JudgeHour(hours, present)
		if v.Crossed && present.Tokens <= rule.Floor {
			t.Fatalf("below the floor: %+v", v)
		}
		more := present
		more.Tokens++
		if v.Crossed && !rule.JudgeHour(hours, more).Crossed {
			t.Fatalf("more is not too much where less is: %+v", v)
		}
		stricter := rule
		stricter.Factor = 5
		if v.Crossed && !stricter.JudgeHour(hours, present).Crossed {
			t.Fatalf("a smaller factor lets pass what a larger does not: %+v", v)
		}
		if len(hours) > 0 {
			live := rule.Judge(append(hours, present), present.Start.Add(time.Hour-1))
			if live.Baseline != v.Baseline || live.Crossed != v.Crossed && live.Rate == v.Rate {
				t.Fatalf("live %+v, afterwards %+v", live, v)
			}
		}
	})
}
