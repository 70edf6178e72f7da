// Package body reads the bodies of calls, holds them to the rules of their
// routes, and writes them anew: what an upstream parses is what was judged,
// whichever parser it has.
//
// It owns content codings, JSON, multipart/form-data and the bounds on them. It
// refuses to know tokens, but for the bounds of parameters, and upstreams. Start
// with [Read]; errors match the sentinels of package refusal.
package body

import (
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// A Doc is a JSON object or a form that keeps the rules of its route.
type Doc struct {
	Model string // As the member or field "model" has it; empty where there is none.

	members []strictjson.Member
	form    *form // Instead of members.
	rules   *route.Members
	size    int
}

// Close gives back what the document takes on disk. The content that was written
// from it can't be read any more.
func (d *Doc) Close() {
	if d.form != nil {
		d.form.spool.Close()
	}
}

// Parse reads an object strictly and holds it to the rules. Even with an error,
// the model is the one that it names, if that could be seen.
func Parse(raw []byte, rules *route.Members) (Doc, error) {
	members, err := strictjson.Object(raw, strictjson.Limits{Names: rules.Names})
	if err != nil {
		return Doc{}, &refusal.Denial{Is: refusal.ErrBody, Detail: err.Error(), Cause: err}
	}
	d := Doc{members: members, rules: rules, size: len(raw)}
	for i := range members {
		if members[i].Name == "model" {
			d.Model, _ = members[i].Text()
		}
	}
	return d, check(members, rules)
}

func check(members []strictjson.Member, rules *route.Members) error {
	for i := range members {
		m := &members[i]
		rule, known := rules.Rules[m.Name]
		switch {
		case known && !rule.Is(m.Value):
			return member(m.Name, rule.Words)
		case !known && rules.Confusable(m.Name):
			return refusal.ErrMemberName
		case rule.Inner != nil && m.Kind == strictjson.KindObject:
			if err := check(within(m.Value), rule.Inner); err != nil {
				return err
			}
		}
	}
	return nil
}

// within returns the members of an object that was found good with the whole
// document.
func within(v strictjson.Value) []strictjson.Member {
	members, _ := strictjson.Object(v.Raw, strictjson.Limits{})
	return members
}

// Flag is the value of a member that is true or false; given tells whether it is
// either.
func (d *Doc) Flag(name string) (value, given bool) {
	if d.form != nil {
		for i := range d.form.parts {
			if d.form.parts[i].name == name {
				return d.form.parts[i].value.Bool()
			}
		}
	}
	for i := range d.members {
		if d.members[i].Name == name {
			return d.members[i].Bool()
		}
	}
	return false, false
}

// Disagrees returns the path of a member that names another model than the call
// does, or empty.
func (d *Doc) Disagrees(r *route.Route, model string) string {
	if d.Model != "" && !r.IsAgain(d.Model, model) {
		return "model"
	}
	return r.Disagrees(d.members, model)
}
