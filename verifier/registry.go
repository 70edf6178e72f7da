package verifier

import (
	"net/http"
	"slices"
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// carrier is where a route's request names the model.
type carrier byte

const (
	carriesBody carrier = iota + 1 // The member "model" of a JSON body.
	carriesPath                    // What follows the route's path.
	carriesNone                    // Nowhere: the answer is about all models.
)

// route is what one endpoint of a model API is, as data. What no route names
// does not exist.
type route struct {
	name      string // For the audit.
	method    string
	path      string // Canonical; with carriesPath it ends in "/" and the model follows.
	action    string // Of the scope that permits it.
	anyAction bool   // A scope of any action on the model will do.
	carrier   carrier
	params    map[string]param // Guarded members of the body, by their folded name.
	answer    func(*Verifier, *call, http.ResponseWriter, *http.Request) error
}

// param is a member of a body that something is decided by, or that would name
// a model, an upstream or somebody's state in a second way.
type param struct {
	name    string
	good    func(strictjson.Value) bool // Nil: it may not be there at all.
	whyNot  string                      // For the client, where it may not.
	isModel bool
}

// findRoute returns the route of a canonical path, and the model if the path
// names it.
func findRoute(method, path string) (*route, string, error) {
	var allowed []string
	for i := range routes {
		r := &routes[i]
		model := ""
		if r.carrier == carriesPath {
			rest, ok := strings.CutPrefix(path, r.path)
			if !ok || !token.ValidModel(rest) {
				continue
			}
			model = rest
		} else if path != r.path {
			continue
		}
		if r.method == method {
			return r, model, nil
		}
		allowed = append(allowed, r.method)
	}
	if allowed != nil {
		slices.Sort(allowed)
		return nil, "", &methodError{strings.Join(slices.Compact(allowed), ", ")}
	}
	return nil, "", errNoRoute
}

// The forms that guarded members may have.
func isText(v strictjson.Value) bool { return v.Kind == strictjson.KindString }
func isFlag(v strictjson.Value) bool {
	return v.Kind == strictjson.KindBool || v.Kind == strictjson.KindNull
}

func isObject(v strictjson.Value) bool {
	return v.Kind == strictjson.KindObject || v.Kind == strictjson.KindNull
}

// isCount is a positive integer written as one. A text or a fraction is what one
// server refuses and the next takes for a number.
func isCount(v strictjson.Value) bool {
	n, ok := v.Int()
	return ok && n > 0 || v.Kind == strictjson.KindNull
}

func isNull(v strictjson.Value) bool { return v.Kind == strictjson.KindNull }

func isFalse(v strictjson.Value) bool {
	b, ok := v.Bool()
	return ok && !b || v.Kind == strictjson.KindNull
}

// guard makes the table of a route's guarded members.
func guard(groups ...[]param) map[string]param {
	table := map[string]param{}
	for _, p := range slices.Concat(groups...) {
		table[fold(p.name)] = p
	}
	return table
}
