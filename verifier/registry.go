package verifier

import (
	"net/http"
	"strings"
)

// carrier is where a request names its model.
type carrier byte

const (
	nowhere carrier = iota
	inBody          // The member "model" of a JSON object.
	inPath          // What follows the route's path.
)

// A route is one method and path that calls may take. What no route names does
// not exist.
type route struct {
	method  string
	path    string // Exact; before the model if that is the carrier, and then ending in "/".
	action  string // What a scope must permit.
	carrier carrier
	members *members // The rules for a body, if it is the carrier.

	// anyAction lets a scope of any action on the model do: the route tells no
	// more of the model than that it exists.
	anyAction bool

	// list marks the route whose answer lists models: we make it ourselves, of
	// what the upstreams list.
	list bool

	family *family
}

// A family is the API of one kind of model server.
type family struct {
	routes []route

	// refusal is the body of an error answer in the family's dialect.
	refusal func(status int, code, message, decision string) []byte

	// event ends a stream that broke off with that error.
	event func(body []byte) []byte
}

// families are all that the verifier speaks. Before a request has a route, it is
// refused in the dialect of the first.
var families = []*family{&openAI}

// name is how logs and records call the route. There are as many names as
// routes, however many models.
func (r *route) name() string {
	if r.carrier == inPath {
		return r.method + " " + r.path + "{model}"
	}
	return r.method + " " + r.path
}

type place struct{ method, path string }

// exact and prefixes are the routes by what find looks for.
var exact, prefixes = func() (map[place]*route, []*route) {
	exact, prefixes := map[place]*route{}, []*route(nil)
	for _, f := range families {
		for i := range f.routes {
			r := &f.routes[i]
			r.family = f
			if r.carrier == inPath {
				prefixes = append(prefixes, r)
			} else {
				exact[place{r.method, r.path}] = r
			}
		}
	}
	return exact, prefixes
}()

// find returns the route of a request and the model that its path names. If only
// the method is wrong, allow says which is right.
func find(method, path string) (r *route, model, allow string) {
	if r := exact[place{method, path}]; r != nil {
		return r, "", ""
	}
	for _, other := range []string{http.MethodGet, http.MethodPost} {
		if exact[place{other, path}] != nil {
			return nil, "", other
		}
	}
	for _, r := range prefixes {
		if model, ok := strings.CutPrefix(path, r.path); ok {
			if r.method == method {
				return r, model, ""
			}
			allow = r.method
		}
	}
	return nil, "", allow
}
