package verifier

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/serve"
)

// Ops serves what the platform asks, on a listener of its own: no path of the
// proxy is ours, and no caller of models sees the state of the verifier. The
// public keys of assertions are there for the upstreams; nil: there are none.
func Ops(ready, metrics http.Handler, assertions *AssertionKeys) http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.HandleFunc("/livez", serve.Live).Methods(http.MethodGet)
	r.Handle("/readyz", ready).Methods(http.MethodGet)
	r.Handle("/metrics", metrics).Methods(http.MethodGet)
	if assertions != nil {
		r.HandleFunc("/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/jwk-set+json")
			w.Header().Set("Cache-Control", "max-age=300")
			_, _ = w.Write(assertions.JWKS())
		}).Methods(http.MethodGet)
	}
	return r
}
