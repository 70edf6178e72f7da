package verifier

import "github.com/hourpass/hourpass/verifier/internal/route"

// RouteRow is one method and path that calls may take.
type RouteRow = route.Row

// Table lists all routes, as docs/routes.md does.
func Table() []RouteRow { return route.Table() }
