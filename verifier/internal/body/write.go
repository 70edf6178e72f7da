package body

import (
	"fmt"
	"math"
	"strconv"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Bounds are what a token and an upstream say to the parameters of a call.
type Bounds struct {
	token.Params

	// Cap is the member to be put in where nothing bounds the tokens of an answer.
	// Empty, or unknown to the route: the route's first.
	Cap string

	// MaxOutput is how many tokens each answer may have: no more were reserved. A
	// request that asks for more, or leaves it open, is brought down to it. Zero:
	// nothing was reserved.
	MaxOutput int64

	// ReportUsage has the server tell what the call cost, where it must be asked.
	ReportUsage bool
}

// IsZero tells whether b bounds nothing.
func (b *Bounds) IsZero() bool { return b.Params.IsZero() && b.MaxOutput == 0 }

// of is the range of a parameter.
func (b *Bounds) of(param string) (r token.Range, bounded bool) {
	r, bounded = b.Bounds[param]
	if param != maxTokens || b.MaxOutput == 0 {
		return r, bounded
	}
	most := float64(b.MaxOutput)
	if !bounded {
		r.Max = most
	}
	return token.Range{Min: math.Min(r.Min, most), Max: math.Min(r.Max, most)}, true
}

// maxTokens is the parameter that bounds an answer.
const maxTokens = "max_tokens"

// Write writes the document anew: the same members or parts in the same order,
// names and model in their plainest form, parameters within bounds, values that
// we do not judge byte for byte. An empty model leaves the member as it is.
func (d *Doc) Write(model string, b Bounds) (Content, error) {
	w := writer{bounds: b, model: model, report: d.report(&b)}
	if d.form != nil {
		return d.form.write(&w, d.rules)
	}
	text, err := w.object(make([]byte, 0, d.size+len(model)+64), d.members, d.rules)
	return Content{Type: jsonType, text: text}, err
}

type writer struct {
	bounds Bounds
	model  string        // Of the outermost object; empty below it.
	report *route.Report // Likewise: the flag that must be set.
	force  string        // A flag that the next object must have set.
}

// report is the flag that has the server tell what the call cost, nil if there is
// none to be set.
func (d *Doc) report(b *Bounds) *route.Report {
	if !b.ReportUsage || d.form != nil || d.rules.Report == nil {
		return nil
	}
	if streams, _ := d.Flag("stream"); d.rules.Report.Streams && !streams {
		return nil
	}
	return d.rules.Report
}

// HidesUsage tells whether the server is made to tell what the call costs though
// the client did not ask for that.
func (d *Doc) HidesUsage() bool {
	if d.rules == nil || d.report(&Bounds{ReportUsage: true}) == nil {
		return false
	}
	for _, m := range inner(d.members, d.rules.Report.Group) {
		if m.Name == d.rules.Report.Name {
			asks, _ := m.Bool()
			return !asks
		}
	}
	return true
}

func (w *writer) object(b []byte, members []strictjson.Member, rules *route.Members) ([]byte, error) {
	b = append(b, '{')
	empty := len(b)
	model, report, force := w.model, w.report, w.force
	w.model, w.report, w.force = "", nil, ""
	var err error
	for i := range members {
		m := &members[i]
		rule := rules.Rules[m.Name]
		reports := report != nil && m.Name == report.Group
		if w.absent(m, rule) || m.Name == force && force != "" || reports && m.Kind == strictjson.KindNull {
			continue // As good as not there, so that what is put in stands alone.
		}
		if reports {
			w.force = report.Name
		}
		b = appendName(b, empty, m.Name)
		switch {
		case model != "" && m.Name == "model":
			b = strictjson.AppendText(b, model)
		case rule.Inner != nil && m.Kind == strictjson.KindObject:
			b, err = w.object(b, within(m.Value), rule.Inner)
		case rule.Param != nil && m.Kind != strictjson.KindNull:
			b, err = w.param(b, m, &rule)
		default:
			b = append(b, m.Raw...)
		}
		if err != nil {
			return nil, err
		}
	}
	if model != "" && !has(members, "model") {
		b = strictjson.AppendText(appendName(b, empty, "model"), model) // Lest the server takes its own default.
	}
	if force != "" {
		b = append(appendName(b, empty, force), "true"...)
	}
	if !w.bounds.IsZero() || report != nil {
		if b, err = w.putIn(b, empty, members, rules, report); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendName(b []byte, empty int, name string) []byte {
	if len(b) > empty {
		b = append(b, ',')
	}
	return append(strictjson.AppendText(b, name), ':')
}

// absent tells whether a bounded member says nothing.
func (w *writer) absent(m *strictjson.Member, rule route.Rule) bool {
	if m.Kind != strictjson.KindNull || w.bounds.IsZero() {
		return false
	}
	if rule.Param == nil {
		return rule.Inner != nil
	}
	_, bounded := w.bounds.of(rule.Param.Name)
	return bounded
}

// param writes a value that is there.
func (w *writer) param(b []byte, m *strictjson.Member, rule *route.Rule) ([]byte, error) {
	p := rule.Param
	n := p.Measure(m.Value)
	if r, bounded := w.bounds.Bounds[p.Name]; bounded && !w.bounds.Clamp && (n < r.Min || n > r.Max) {
		return nil, outOfBounds(m.Name, r)
	}
	r, bounded := w.bounds.of(p.Name)
	switch {
	case !bounded, r.Min <= n && n <= r.Max:
		return append(b, m.Raw...), nil
	case p.Write == nil:
		return nil, outOfBounds(m.Name, r)
	}
	return write(b, m.Name, rule, n, r)
}

// write appends the nearest value to n within r that keeps the rule.
func write(b []byte, name string, rule *route.Rule, n float64, r token.Range) ([]byte, error) {
	start, p := len(b), rule.Param
	b = p.Write(b, math.Min(math.Max(n, r.Min), r.Max))
	// A count between 0.2 and 0.8 there is not; and 0 is no count: some servers
	// take it for none given, others for no end.
	v := strictjson.Value{Kind: strictjson.KindNumber, Raw: b[start:]}
	if b[start] == 't' || b[start] == 'f' {
		v.Kind = strictjson.KindBool
	}
	if got := p.Measure(v); got < r.Min || got > r.Max || !rule.Is(v) {
		return nil, outOfBounds(name, r)
	}
	return b, nil
}

// putIn appends what servers would otherwise take out of bounds.
func (w *writer) putIn(b []byte, empty int, members []strictjson.Member, rules *route.Members, report *route.Report) ([]byte, error) {
	given := func(param string) bool {
		for i := range members {
			if members[i].Kind != strictjson.KindNull && w.settles(rules, members[i].Name, param) {
				return true
			}
		}
		return false
	}
	err := w.missing(rules, given, func(name string, value []byte) {
		b = append(appendName(b, empty, name), value...)
	})
	if err != nil {
		return nil, err
	}
	for _, name := range rules.Inners {
		if has(members, name) {
			continue
		}
		if report != nil && name == report.Group {
			w.force = report.Name
		}
		inner, err := w.object(nil, nil, rules.Rules[name].Inner)
		if err != nil {
			return nil, err
		}
		if len(inner) > len("{}") {
			b = append(appendName(b, empty, name), inner...)
		}
	}
	return b, nil
}

// settles tells whether a member of that name says the parameter to the upstream.
// One that it may not read would leave it to take as much as it likes.
func (w *writer) settles(rules *route.Members, name, param string) bool {
	rule := rules.Rules[name]
	return rule.Param != nil && rule.Param.Name == param && (!rule.Some || name == w.bounds.Cap)
}

// missing puts in a member for each parameter that is not given and that servers
// would take out of bounds.
func (w *writer) missing(rules *route.Members, given func(param string) bool, put func(name string, value []byte)) error {
	if w.bounds.IsZero() {
		return nil
	}
	for i, name := range rules.Params {
		rule := rules.Rules[name]
		p := rule.Param
		r, bounded := w.bounds.of(p.Name)
		if !bounded || r.Min <= p.Absent && p.Absent <= r.Max || !first(rules, i) || given(p.Name) {
			continue
		}
		if capRule := rules.Rules[w.bounds.Cap]; capRule.Param != nil && capRule.Param.Name == p.Name {
			name, rule = w.bounds.Cap, capRule
		}
		if rule.Param.Write == nil {
			return outOfBounds(name, r)
		}
		value, err := write(nil, name, &rule, p.Absent, r)
		if err != nil {
			return err
		}
		put(name, value)
	}
	return nil
}

// first tells whether no member before stands for the same parameter.
func first(rules *route.Members, i int) bool {
	for _, before := range rules.Params[:i] {
		if rules.Rules[before].Param.Name == rules.Rules[rules.Params[i]].Param.Name {
			return false
		}
	}
	return true
}

func has(members []strictjson.Member, name string) bool {
	for i := range members {
		if members[i].Name == name && members[i].Kind != strictjson.KindNull {
			return true
		}
	}
	return false
}

func outOfBounds(name string, r token.Range) error {
	text := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	detail := fmt.Sprintf("%q must be given, and at most %s", name, text(r.Max))
	if r.Min > 0 {
		detail = fmt.Sprintf("%q must be given, from %s to %s", name, text(r.Min), text(r.Max))
	}
	return &refusal.Denial{Is: refusal.ErrParam, Detail: detail}
}
