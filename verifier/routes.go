package verifier

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/serve"
)

// Ops serves what the platform asks, on a listener of its own: no path of the
// proxy is ours, and no caller of models sees the state of the verifier.
func Ops(ready, metrics http.Handler) http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.HandleFunc("/livez", serve.Live).Methods(http.MethodGet)
	r.Handle("/readyz", ready).Methods(http.MethodGet)
	r.Handle("/metrics", metrics).Methods(http.MethodGet)
	return r
}
