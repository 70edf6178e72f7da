package verifier_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// nobody is a client that takes what it is given.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header { return n.header }

func (n nobody) Write(p []byte) (int, error) { return len(p), nil }

func (n nobody) WriteHeader(int) {}

var prompt = `{"model":"small","messages":[{"role":"user","content":"` + strings.Repeat("What is the capital of France? ", 16) + `"}],"max_tokens":100}`

// BenchmarkDecision is a call without network and record: from the request to
// the body written anew. "cold" is a token that was never seen.
func BenchmarkDecision(b *testing.B) {
	for _, bench := range []struct {
		name string
		size int
	}{{"warm", 8192}, {"cold", 1}} {
		b.Run(bench.name, func(b *testing.B) {
			h := newHouse(b, func(c *verifier.Config) { c.CacheSize, c.Audit, c.Log = bench.size, nil, nil })
			var requests [2]*http.Request // In a cache of one, two in turn always miss.
			for i := range requests {
				requests[i] = newRequest("POST", "/v1/chat/completions", prompt, h.keys.token(func(c *token.Claims) { c.ID = strings.Repeat("x", i+1) }))
			}
			body, w := bytes.NewReader(nil), nobody{http.Header{}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r := requests[i%2]
				body.Reset([]byte(prompt))
				r.Body = io.NopCloser(body)
				if err := h.v.Decide(w, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCall is a call over the network, 1 KB of answer; its allocations are
// those of client, verifier and upstream together. "direct" is the same without
// the verifier, to be subtracted.
func BenchmarkCall(b *testing.B) {
	h := newHouse(b, func(c *verifier.Config) { c.Log = nil })
	answer := `{"object":"chat.completion","text":"` + strings.Repeat("x", 1000) + `"}`
	h.answer(reply(200, "application/json", answer))
	upstream := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	r := h.good()
	for _, bench := range []struct{ name, url string }{{"direct", h.upstream}, {"through", h.url}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, _ := http.NewRequest("POST", bench.url+r.target, strings.NewReader(prompt))
					req.Header = r.header
					res, err := upstream.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					if n, err := io.Copy(io.Discard, res.Body); err != nil || n != int64(len(answer)) {
						b.Fatal(n, err)
					}
					res.Body.Close()
				}
			})
			h.arrived()
		})
	}
}

// BenchmarkStream is one event of a stream that comes as fast as it can.
func BenchmarkStream(b *testing.B) {
	h := newHouse(b, func(c *verifier.Config) { c.Log = nil })
	const event = "data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n"
	h.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		flush := http.NewResponseController(w)
		for range b.N {
			_, _ = io.WriteString(w, event)
			_ = flush.Flush()
		}
	})
	b.ReportAllocs()
	res := h.open(b.Context(), h.good())
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != int64(b.N*len(event)) {
		b.Fatal(n, err)
	}
}

// BenchmarkLimits is a decision about a call whose token has three limits, with
// what it cost settled, and one about a call whose token has none: their
// difference is what limits cost. hops/op is how often the ledger is asked.
func BenchmarkLimits(b *testing.B) {
	for _, bench := range []struct {
		name   string
		limits token.Limits
	}{{"without", nil}, {"with", token.Limits{"tokens/day": 1 << 50, "requests/minute": 1 << 40, "concurrent": 1000}}} {
		b.Run(bench.name, func(b *testing.B) {
			engine := &asked{Memory: ledger.NewMemory(nil)}
			h := newHouse(b, func(c *verifier.Config) {
				c.Audit, c.Log, c.Now = nil, nil, func() time.Time { return noon.Add(time.Minute + time.Since(started)) }
				budgets, err := verifier.NewBudgets(verifier.BudgetsConfig{Engine: engine})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				b.Cleanup(cancel)
				go func() { _ = budgets.Run(ctx) }()
				c.Issuers[0].Budgets = budgets
			})
			r := newRequest("POST", "/v1/chat/completions", prompt, h.keys.token(func(c *token.Claims) { c.Limits = bench.limits }))
			body, w := bytes.NewReader(nil), nobody{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				body.Reset([]byte(prompt))
				r.Body = io.NopCloser(body)
				if err := h.v.DecideAndSettle(w, r); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(engine.questions.Load())/float64(b.N), "hops/op")
		})
	}
}

var started = time.Now()

// asked counts how often a ledger is asked.
type asked struct {
	*ledger.Memory
	questions atomic.Int64
}

func (a *asked) Sync(ctx context.Context, holder string, lease time.Duration, claims []ledger.Claim) ([]ledger.Share, error) {
	a.questions.Add(1)
	return a.Memory.Sync(ctx, holder, lease, claims)
}
