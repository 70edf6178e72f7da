package verifier

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/serve"
)

// Ops serves what the platform asks, on a listener of its own: a call can never
// reach it, whatever its path.
func Ops(ready http.Handler) http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.HandleFunc("/livez", serve.Live).Methods(http.MethodGet)
	r.Handle("/readyz", ready).Methods(http.MethodGet)
	return r
}
