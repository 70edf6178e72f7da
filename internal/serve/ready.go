package serve

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
)

// Check says what keeps the program from its work; nil is ready.
type Check struct {
	Name string
	Err  func() error
}

// Readiness answers /readyz from checks, and is not ready once draining.
type Readiness struct {
	Checks   []Check
	draining atomic.Bool
}

var errDraining = errors.New("the program is stopping")

// Drain makes the program not ready for good.
func (r *Readiness) Drain() { r.draining.Store(true) }

// ServeHTTP answers 200 when every check passes, otherwise 503, with each
// check's word as JSON.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	checks, ready := map[string]string{}, true
	note := func(name string, err error) {
		checks[name] = "ok"
		if err != nil {
			checks[name], ready = err.Error(), false
		}
	}
	for _, c := range r.Checks {
		note(c.Name, c.Err())
	}
	if r.draining.Load() {
		note("process", errDraining)
	}
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"ready": ready, "checks": checks})
}

// Live answers /livez: the process serves requests. It depends on nothing else,
// so that an identity provider's outage restarts nobody.
func Live(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}
