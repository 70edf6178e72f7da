package verifier

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourpass/hourpass/internal/audit"
)

// Metrics counts calls. No label names a caller: they come from closed lists, the
// routes of the registry and the reasons of refusals.
type Metrics struct {
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

// NewMetrics registers the metrics of one verifier.
func NewMetrics(to prometheus.Registerer) *Metrics {
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hourpass_calls_total", Help: "Calls by route, outcome (allow, deny) and reason, empty where a call ended well.",
		}, []string{"route", "outcome", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hourpass_call_seconds", Help: "How long calls took, from their first byte to the last of the answer.",
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 5, 15, 60, 300, 1800},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "hourpass_calls_in_flight", Help: "Calls under way."}),
	}
	to.MustRegister(m.calls, m.seconds, m.inFlight)
	return m
}

func (m *Metrics) begin() {
	if m != nil {
		m.inFlight.Inc()
	}
}

func (m *Metrics) end(r *audit.Record) {
	if m == nil {
		return
	}
	m.inFlight.Dec()
	m.calls.WithLabelValues(r.Route, r.Outcome, r.Reason).Inc()
	m.seconds.WithLabelValues(r.Route).Observe(r.Millis / 1000)
}
