package verifier_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hourpass/hourpass/verifier"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	h := newHouse(t, func(c *verifier.Config) { c.Metrics = verifier.NewMetrics(registry) })
	for range 2 {
		h.send(h.good())
	}
	r := h.good()
	r.body = `{"model":"secret-model"}`
	h.send(r)
	r = h.good()
	r.target = "/v1/secret-path"
	h.send(r)
	h.settle()
	const want = `
# HELP hourpass_calls_in_flight Calls under way.
# TYPE hourpass_calls_in_flight gauge
hourpass_calls_in_flight 0
# HELP hourpass_calls_total Calls by route, outcome (allow, deny) and reason, empty where a call ended well.
# TYPE hourpass_calls_total counter
hourpass_calls_total{outcome="allow",reason="",route="POST /v1/chat/completions"} 2
hourpass_calls_total{outcome="deny",reason="endpoint",route=""} 1
hourpass_calls_total{outcome="deny",reason="scope",route="POST /v1/chat/completions"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "hourpass_calls_total", "hourpass_calls_in_flight"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry, "hourpass_call_seconds"); err != nil || n != 2 {
		t.Errorf("%d histograms, %v", n, err)
	}
}
