package route

import (
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// Disagrees returns the path of the first member of Agree that names another
// model than the call does, or empty. The members are those of a whole body or
// message. Google's servers refuse such a body too; Azure's go by the path in
// silence, and what stands between may go by the body.
func (r *Route) Disagrees(members []strictjson.Member, model string) string {
	for _, path := range r.Agree {
		if !r.agree(members, path, model) {
			return path
		}
	}
	return ""
}

func (r *Route) agree(members []strictjson.Member, path, model string) bool {
	name, rest, deeper := strings.Cut(path, ".")
	for i := range members {
		m := &members[i]
		switch {
		case m.Name != name || m.Kind == strictjson.KindNull:
		case !deeper:
			if again, ok := m.Text(); !ok || !r.IsAgain(again, model) {
				return false
			}
		case !r.agreeWithin(m.Value, rest, model):
			return false
		}
	}
	return true
}

func (r *Route) agreeWithin(v strictjson.Value, path, model string) bool {
	all := []strictjson.Value{v}
	if v.Kind == strictjson.KindArray {
		all, _ = strictjson.Array(v.Raw, strictjson.Limits{})
	}
	for _, one := range all {
		if one.Kind != strictjson.KindObject {
			continue // No server finds a model in it; its rule says whether it may stand there.
		}
		members, err := strictjson.Object(one.Raw, strictjson.Limits{})
		if err != nil || !r.agree(members, path, model) {
			return false
		}
	}
	return true
}

// IsAgain tells whether name, within a body, is the model that the path names.
func (r *Route) IsAgain(name, model string) bool {
	return name == model || r.Family.Collection != "" && name == r.Family.Collection+model
}
