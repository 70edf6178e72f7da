package upstream_test

import (
	"testing"

	"github.com/hourpass/hourpass/verifier/internal/route"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// TestRulingIsClosed: of the routes that rule a server, none is open but those
// that the upstream's configuration names.
func TestRulingIsClosed(t *testing.T) {
	ruling := 0
	for _, f := range route.Families {
		closed := newServer(t, upstream.Config{API: f.Name, URL: "http://u"})
		for _, r := range allRoutes() {
			if got, want := closed.Serves(r), f.Serves(r) && !r.Admin(); got != want {
				t.Errorf("%s serves %s: %t, want %t", f.Name, r.Name(), got, want)
			}
			if !r.Admin() || !f.Serves(r) {
				continue
			}
			ruling++
			open := newServer(t, upstream.Config{API: f.Name, URL: "http://u", Open: []string{r.Name()}})
			for _, other := range allRoutes() {
				if other.Admin() && open.Serves(other) != (other == r) {
					t.Errorf("%s, with %s open, serves %s: %t", f.Name, r.Name(), other.Name(), open.Serves(other))
				}
			}
		}
	}
	if ruling < 50 {
		t.Errorf("%d routes that rule servers", ruling)
	}
}

func allRoutes() (list []*route.Route) {
	for _, f := range route.Families {
		for i := range f.Routes {
			list = append(list, &f.Routes[i])
		}
	}
	return list
}
