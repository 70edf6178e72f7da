package route

import (
	"maps"
	"slices"
)

// A Row is a route as people and other programs read it.
type Row struct {
	Families  []string `json:"families"` // Whose servers have it; its own, in whose dialect it answers, is the first.
	Method    string   `json:"method"`
	Path      string   `json:"path"`
	Name      string   `json:"name"`   // In logs, records and configuration.
	Action    string   `json:"action"` // That a scope must permit.
	Admin     bool     `json:"admin,omitempty"`
	AnyAction bool     `json:"any_action,omitempty"` // A scope of any other action will do too.
	Model     string   `json:"model"`                // Where a request names it.
	Bound     bool     `json:"bound,omitempty"`      // It may be left out.
	Form      bool     `json:"form,omitempty"`       // The body is multipart/form-data.
	Socket    bool     `json:"socket,omitempty"`     // It is a WebSocket.
	Stream    string   `json:"stream"`
	Opaque    bool     `json:"opaque,omitempty"`  // A token that bounds parameters does not open it.
	Guarded   []string `json:"guarded,omitempty"` // The members that have rules, and are not refused.
	Refused   []string `json:"refused,omitempty"` // The members that may not stand there.
	Query     []string `json:"query,omitempty"`   // The parameters that may stand there.
	Answers   []string `json:"answers,omitempty"` // Media types beside JSON and events.
	Usage     Usage    `json:"usage,omitzero"`
}

// Table lists all routes, family by family.
func Table() []Row {
	var rows []Row
	for _, f := range Families {
		for i := range f.Routes {
			rows = append(rows, row(&f.Routes[i]))
		}
	}
	return rows
}

func row(r *Route) Row {
	one := Row{
		Families: []string{r.Family.Name}, Method: r.Method, Path: r.Path, Name: r.name, Action: r.Action, Admin: r.Admin(), AnyAction: r.AnyAction,
		Model: r.Carrier.String(), Bound: r.Bound, Form: r.Form || r.Carrier == InForm, Socket: r.Socket, Stream: r.Stream.String(), Opaque: r.Opaque,
		Query: slices.Sorted(maps.Keys(r.Query)), Answers: r.Answers, Usage: r.Usage,
	}
	for _, f := range Families {
		if f != r.Family && f.Serves(r) {
			one.Families = append(one.Families, f.Name)
		}
	}
	if r.Members != nil {
		one.Guarded, one.Refused = r.Members.list("")
	}
	return one
}

// list returns the names that have rules, those within behind a dot.
func (m *Members) list(outer string) (guarded, refused []string) {
	for _, name := range slices.Sorted(maps.Keys(m.Rules)) {
		rule := m.Rules[name]
		switch {
		case rule.never:
			refused = append(refused, outer+name)
			continue
		case rule.Inner == nil:
			guarded = append(guarded, outer+name)
			continue
		}
		g, r := rule.Inner.list(outer + name + ".")
		guarded, refused = append(append(guarded, outer+name), g...), append(refused, r...)
	}
	return guarded, refused
}
