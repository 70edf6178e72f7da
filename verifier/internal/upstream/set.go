package upstream

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// everyModel is the pattern of an upstream that takes what no other serves.
const everyModel = "*"

// A Set is all upstreams of a verifier.
type Set struct {
	All []*Server

	exact    map[string]*Server
	patterns []pattern       // The longest first.
	naming   []*route.Family // Those with names of their own for models, each once.
}

type pattern struct {
	text string
	to   *Server
}

// NewSet checks the configurations, all of them at once.
func NewSet(list []Config) (*Set, error) {
	set := &Set{exact: map[string]*Server{}}
	var errs []error
	names := map[string]bool{}
	for _, c := range list {
		one, err := newServer(c)
		if err != nil {
			errs = append(errs, fmt.Errorf("upstream %q: %w", c.Name, err))
			continue
		}
		if names[c.Name] {
			errs = append(errs, fmt.Errorf("upstream %q: its name stands twice", c.Name))
		}
		names[c.Name] = true
		set.All = append(set.All, one)
		if one.Family.Canonical != nil && !slices.Contains(set.naming, one.Family) {
			set.naming = append(set.naming, one.Family)
		}
		for _, m := range c.Models {
			if err := set.add(m, one); err != nil {
				errs = append(errs, fmt.Errorf("upstream %q: %w", c.Name, err))
			}
		}
	}
	slices.SortStableFunc(set.patterns, func(a, b pattern) int { return len(b.text) - len(a.text) })
	return set, errors.Join(errs...)
}

// add makes to the one that serves model, a name or a pattern that was checked.
func (s *Set) add(model string, to *Server) error {
	switch {
	case s.exact[model] != nil || slices.ContainsFunc(s.patterns, func(p pattern) bool { return p.text == model }):
		return fmt.Errorf("model %q has an upstream already", model)
	case isPattern(model):
		s.patterns = append(s.patterns, pattern{model, to})
	default:
		s.exact[model] = to
	}
	return nil
}

// Serving returns who serves a model, and the one name that the model has there.
// A name that nobody serves is its own. An exact name comes before all patterns,
// as it stands before as a family would have it; of patterns that fit, the
// longest has it: two stand one within the other or share nothing.
func (s *Set) Serving(name string) (*Server, string) {
	if to := s.exact[name]; to != nil {
		return to, name
	}
	for _, f := range s.naming {
		canonical := f.CanonicalName(name)
		if to := s.exact[canonical]; to != nil && to.Family == f {
			return to, canonical
		}
	}
	for _, p := range s.patterns {
		canonical := p.to.Family.CanonicalName(name)
		if p.text == everyModel || token.MatchModel(p.text, canonical) {
			return p.to, canonical
		}
	}
	return nil, name
}

// Bound returns who is meant by a request that names no model: the only upstream
// that has the route and only one model. Of a route that rules a server it is the
// only one that opens the route, and its name stands for the model.
func (s *Set) Bound(r *route.Route) (*Server, string) {
	var found *Server
	for _, to := range s.All {
		if to.Serves(r) {
			if found != nil {
				return nil, ""
			}
			found = to
		}
	}
	switch {
	case found == nil:
		return nil, ""
	case r.Carrier == route.Nowhere && r.Admin():
		return found, found.Name
	case len(found.Models) == 1 && s.exact[found.Models[0]] == found:
		return found, found.Models[0]
	}
	return nil, ""
}
