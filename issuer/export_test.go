package issuer

import (
	"context"
	"database/sql"
	"net/http"
	"time"

	"github.com/gorilla/mux"
)

// Routes are "METHOD path" of all that is served.
func Routes() (list []string, err error) {
	s := &Server{Config: Config{KeySet: http.NotFoundHandler()}}
	err = s.router().Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := r.GetMethods()
		for _, m := range methods {
			list = append(list, m+" "+path)
		}
		return err
	})
	return list, err
}

// QueryUsage asks as GET /v1/usage does, and returns how many rows there are.
func QueryUsage(ctx context.Context, db *sql.DB, from, to time.Time, by []string, only map[string]string, whom string) (int, error) {
	rows, err := (&Server{Config: Config{DB: db}}).queryUsage(ctx, &usageQuestion{from: from, to: to, by: by, only: only}, whom)
	return len(rows), err
}

// OpenAPI is the document that describes them.
var OpenAPI = openapi
