package verifierd

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourpass/hourpass/internal/usage"
	"github.com/hourpass/hourpass/keys/format"
)

// openSpool opens the way of what calls cost to the first issuer, nil if there is
// none.
func (c *settings) openSpool(log *slog.Logger, now func() time.Time) (*usage.Spool, error) {
	if c.UsageSpool == "" {
		return nil, nil
	}
	to := &c.Issuers[0]
	key := to.Revocations.Key.Reveal()
	id, err := format.ParseID(key)
	if err != nil {
		return nil, err
	}
	client := &usage.Client{URL: to.Issuer + "/usage", KeyID: id, Key: key}
	return usage.OpenSpool(usage.SpoolConfig{Dir: c.UsageSpool, Send: client.Send, Log: log, Now: now})
}

func spoolMetrics(s *usage.Spool) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "hourpass_usage_lost_total", Help: "Calls whose cost found no room in the spool for the issuer.",
	}, func() float64 { return float64(s.Lost()) })
}
