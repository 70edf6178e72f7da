package verifierd

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// newRegistry has the metrics of the process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	// Not those of the package collectors, which links database/sql.
	r.MustRegister(prometheus.NewGoCollector(), prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{})) //nolint:staticcheck // As said.
	return r
}

func metricsPage(r *prometheus.Registry, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)})
}

// issuerMetrics tells the state of each issuer's keys, revocations and budgets.
type issuerMetrics struct {
	issuers []issuer
	now     func() time.Time
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("hourpass_"+name, help, append([]string{"issuer"}, labels...), nil)
}

var (
	keysReady      = describe("key_set_ready", "1 while the issuer's keys can be used.")
	keysUsable     = describe("key_set_keys", "Usable keys of the issuer.")
	keysGeneration = describe("key_set_generation", "How often the issuer's keys have changed.")
	keysLastGood   = describe("key_set_last_good_timestamp_seconds", "When the last good fetch of the issuer's keys was begun.")
	keysFailed     = describe("key_set_failures_total", "Fetches that brought no keys, by reason.", "reason")
	ledgerReady    = describe("ledger_ready", "1 while the ledger of the issuer's budgets answers.")
	budgetsKnown   = describe("budgets", "Budgets in use here.")
	revocationsAge = describe("revocations_generation", "The generation of the issuer's revocations that is enforced; -1 before the first.")
)

// Describe is empty: which metrics there are depends on the issuers.
func (m issuerMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads what is held; it fetches nothing.
func (m issuerMetrics) Collect(to chan<- prometheus.Metric) {
	for _, i := range m.issuers {
		s := i.keys.Status(m.now())
		gauge := func(d *prometheus.Desc, v float64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, i.URL)
		}
		ready := 0.0
		if s.Ready {
			ready = 1
		}
		gauge(keysReady, ready)
		gauge(keysUsable, float64(s.Keys))
		gauge(keysGeneration, float64(s.Generation))
		if !s.LastGood.IsZero() {
			gauge(keysLastGood, float64(s.LastGood.Unix()))
		}
		for reason, n := range s.Failed {
			to <- prometheus.MustNewConstMetric(keysFailed, prometheus.CounterValue, float64(n), i.URL, reason)
		}
		answers := 1.0
		if i.Budgets.Ready() != nil {
			answers = 0
		}
		gauge(ledgerReady, answers)
		gauge(budgetsKnown, float64(i.Budgets.Accounts()))
		if i.Revocations != nil {
			gauge(revocationsAge, float64(i.Revocations.Generation()))
		}
	}
}
