package issuer

import (
	"net/http"

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

// OpenAPI is the document that describes them.
var OpenAPI = openapi
