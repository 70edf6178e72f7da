package verifier_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/internal/usage"
	"github.com/hourpass/hourpass/verifier"
)

// purse is a house whose verifier enforces limits, by a ledger in memory.
type purse struct {
	*house
	ledger *ledger.Memory
	mu     sync.Mutex
	usage  []usage.Call
}

func (p *purse) Add(c usage.Call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.usage = append(p.usage, c)
	return nil
}

func newPurse(t testing.TB, edits ...func(*verifier.Config)) *purse {
	t.Helper()
	p := &purse{}
	p.house = newHouse(t, append(edits, func(c *verifier.Config) {
		p.ledger = ledger.NewMemory(c.Now)
		b, err := verifier.NewBudgets(verifier.BudgetsConfig{Engine: p.ledger, Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.Run(ctx) })
		t.Cleanup(func() { cancel(); wg.Wait() })
		c.Issuers[0].Budgets, c.Usage = b, p
	})...)
	return p
}

// limited is a good call with a token that has limits.
func (p *purse) limited(limits token.Limits, edits ...func(*token.Claims)) request {
	r := p.good()
	r.header.Set("Authorization", "Bearer "+p.keys.token(append(edits, func(c *token.Claims) { c.Limits = limits })...))
	return r
}

func clamped(c *token.Claims) {
	c.Params = token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 100_000}}, Clamp: true}
}

// says has the model answer with a body of that type.
func (p *purse) says(media, body string) {
	p.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		_, _ = io.WriteString(w, body)
	})
}

// left is what the fields of an answer say is left of a limit.
func left(t testing.TB, got response, limit string) string {
	t.Helper()
	for part := range strings.SplitSeq(got.header.Get("RateLimit"), ", ") {
		if rest, ok := strings.CutPrefix(part, `"`+limit+`";r=`); ok {
			return rest
		}
	}
	t.Fatalf("RateLimit: %q has nothing of %s", got.header.Get("RateLimit"), limit)
	return ""
}

const (
	reported = `{"choices":[{"index":0,"message":{"content":"hello you"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}`
	silent   = `{"choices":[{"index":0,"message":{"content":"twelve bytes"}}]}`
	delta    = `data: {"choices":[{"index":0,"delta":{"content":"word"}}]}` + "\n\n"
	extra    = `data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}` + "\n\n"
	done     = "data: [DONE]\n\n"
)

// TestSettle holds what is spent, written down and told to what the answer says,
// or else to what was counted, or else to what was reserved.
func TestSettle(t *testing.T) {
	const events = "text/event-stream"
	for _, tt := range []struct {
		name         string
		target, body string
		media, says  string
		input        int64
		output       int64
		source       string
	}{
		{"reported", "", "", "application/json", reported, 7, 3, "reported"},
		{"reported in a stream", "", `{"model":"small","messages":[],"stream":true}`, events, delta + delta + extra + done, 7, 3, "reported"},
		{"not reported", "", "", "application/json", silent, 3, 3, "counted"},
		{"not reported in a stream", "", `{"model":"small","messages":[],"stream":true}`, events, delta + delta + done, 4, 2, "counted"},
		{"nothing to go by", "", `{"model":"small","messages":[],"max_tokens":50}`, "application/json", `{}`, 4, 50, "estimated"},
		{"a failure", "", "", "application/json", "", 0, 0, ""},
		{"embeddings", "/v1/embeddings", `{"model":"small","input":"hi"}`, "application/json", `{"data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}`, 5, 0, "reported"},
		{"no usage at all", "/v1/moderations", `{"model":"small","input":"hi"}`, "application/json", `{}`, 0, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPurse(t)
			r := p.limited(token.Limits{"input_tokens/day": 10_000, "output_tokens/day": 10_000, "requests/day": 10}, func(c *token.Claims) {
				c.Scope, _ = token.NewScopes("chat:small", "embeddings:small", "moderations:small")
			})
			if tt.target != "" {
				r.target = tt.target
			}
			if tt.body != "" {
				r.body = tt.body
			}
			p.says(tt.media, tt.says)
			status := 200
			if tt.says == "" {
				status = 500
				p.answer(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(500)
					_, _ = io.WriteString(w, reported)
				})
			}
			if got := p.send(r); got.status != status {
				t.Fatalf("%d %s", got.status, got.body)
			}
			rec := p.records()[0]
			if rec.Input != tt.input || rec.Output != tt.output || rec.Usage != tt.source {
				t.Errorf("the record has %d, %d, %q, want %d, %d, %q", rec.Input, rec.Output, rec.Usage, tt.input, tt.output, tt.source)
			}
			if len(p.usage) != 1 || p.usage[0].Input != tt.input || p.usage[0].Output != tt.output || p.usage[0].Source != tt.source ||
				p.usage[0].Key != rec.Key || p.usage[0].Model != "small" || p.usage[0].Identity != rec.Identity {
				t.Errorf("usage %+v", p.usage)
			}
			r.target, r.body = "/v1/moderations", `{"model":"small","input":""}` // It reserves but a request.
			got := p.send(r)
			for limit, want := range map[string]int64{"input_tokens/day": 10_000 - tt.input, "output_tokens/day": 10_000 - tt.output, "requests/day": 8} {
				if text := left(t, got, limit); text != fmt.Sprintf("%d;t=43140", want) {
					t.Errorf("of %s is left %s, want %d", limit, text, want)
				}
			}
		})
	}
}

// TestSpent refuses what no budget is left for, and says when there is more.
func TestSpent(t *testing.T) {
	for _, tt := range []struct {
		limit        string
		most         int64
		status       int
		code, reason string
		retry        string
		policy       string
	}{
		{"tokens/day", 10, 402, "budget_spent", "budget", "43140", `"tokens/day";q=10;w=86400`},
		{"tokens/month@small", 10, 402, "budget_spent", "budget", "", `"tokens/month@small";q=10;w=2592000`},
		{"requests/minute", 1, 429, "rate_limited", "rate", "60", `"requests/minute";q=1;w=60`},
		{"output_tokens/hour", 3, 429, "rate_limited", "rate", "3540", `"output_tokens/hour";q=3;w=3600`},
		{"requests/day", 0, 402, "budget_spent", "budget", "43140", `"requests/day";q=0;w=86400`},
	} {
		t.Run(tt.limit, func(t *testing.T) {
			p := newPurse(t)
			p.says("application/json", reported)
			r := p.limited(token.Limits{tt.limit: tt.most}, clamped)
			r.body = `{"model":"small","messages":[],"max_tokens":2}`
			if tt.most > 0 {
				r.body = `{"model":"small"}`
				if got := p.send(r); got.status != 200 {
					t.Fatalf("the first: %d %s", got.status, got.body)
				}
				p.arrived()
			}
			got := p.refused(r, tt.status, tt.code, tt.reason)
			if h := got.header; tt.retry != "" && h.Get("Retry-After") != tt.retry || h.Get("RateLimit-Policy") != tt.policy || !strings.Contains(got.body, tt.limit) {
				t.Errorf("%v %s", h, got.body)
			}
		})
	}
}

// TestReservation looks at what the upstream is told of the answer's length.
func TestReservation(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits token.Limits
		edit   func(*token.Claims)
		body   string
		want   string // What arrives; empty: it is refused.
	}{
		{"left open: the default", token.Limits{"tokens/day": 1 << 40}, nil, `{"model":"small"}`, `{"model":"small","max_completion_tokens":4096}`},
		{"left open, in a stream", token.Limits{"tokens/day": 1 << 40}, nil, `{"model":"small","stream":true}`, `{"model":"small","stream":true,"stream_options":{"include_usage":true}}`},
		{"left open: what there is", token.Limits{"tokens/day": 100}, nil, `{"model":"small"}`, `{"model":"small","max_completion_tokens":98}`},
		{"left open, in a stream: what there is", token.Limits{"output_tokens/day": 100}, nil, `{"model":"small","stream":true}`, `{"model":"small","stream":true,"max_completion_tokens":100,"stream_options":{"include_usage":true}}`},
		{"said", token.Limits{"tokens/day": 100}, nil, `{"model":"small","max_tokens":50}`, `{"model":"small","max_tokens":50}`},
		{"more than there is", token.Limits{"tokens/day": 100}, nil, `{"model":"small","max_tokens":500}`, ""},
		{"more than there is, to be clamped", token.Limits{"tokens/day": 100}, clamped, `{"model":"small","max_tokens":500}`, `{"model":"small","max_tokens":97}`},
		{"by two names", token.Limits{"tokens/day": 100}, clamped, `{"model":"small","max_tokens":5,"max_completion_tokens":500}`, `{"model":"small","max_tokens":5,"max_completion_tokens":96}`},
		{"several answers", token.Limits{"output_tokens/day": 100}, clamped, `{"model":"small","max_tokens":500,"n":3}`, `{"model":"small","max_tokens":33,"n":3}`},
		{"no room for an answer", token.Limits{"tokens/day": 3}, clamped, `{"model":"small","max_tokens":500}`, ""},
		{"only requests count", token.Limits{"requests/day": 5}, nil, `{"model":"small","max_tokens":500}`, `{"model":"small","max_tokens":500}`},
		{"only input counts", token.Limits{"input_tokens/day": 50}, nil, `{"model":"small","max_tokens":500}`, `{"model":"small","max_tokens":500}`},
		{"too much input", token.Limits{"input_tokens/day": 50}, clamped, `{"model":"small","x":"` + strings.Repeat("word ", 50) + `"}`, ""},
		{"a picture", token.Limits{"input_tokens/day": 2000}, nil, `{"model":"small","x":"` + strings.Repeat("A", 100_000) + `"}`, `{"model":"small","x":"` + strings.Repeat("A", 100_000) + `"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPurse(t)
			edit := tt.edit
			if edit == nil {
				edit = func(*token.Claims) {}
			}
			r := p.limited(tt.limits, edit)
			r.body = tt.body
			if tt.want == "" {
				p.refused(r, 402, "budget_spent", "budget")
				return
			}
			p.send(r)
			got := p.arrived()
			if len(got) != 1 || got[0].body != tt.want {
				t.Errorf("there arrives %+v, want %s", got, tt.want)
			}
		})
	}
}

// TestCut ends a stream that goes on beyond what there is, in the route's own way.
func TestCut(t *testing.T) {
	p := newPurse(t)
	var sent atomic.Int64
	gone := make(chan struct{})
	p.answer(func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, delta); err != nil {
				return
			}
			sent.Add(1)
			_ = http.NewResponseController(w).Flush()
		}
	})
	r := p.limited(token.Limits{"output_tokens/day": 500})
	r.body = `{"model":"small","stream":true,"max_tokens":300}`
	got := p.send(r)
	<-gone // The upstream is told to stop.
	events := strings.Count(got.body, `"word"`)
	if got.status != 200 || events < 450 || events > 510 || strings.Count(got.body, "\n\n") != events+1 || !strings.HasSuffix(got.body, "}}\n\n") || !strings.Contains(got.body, `"code":"budget_spent"`) {
		t.Errorf("%d, %d events, ending in %.300q", got.status, events, got.body[max(0, len(got.body)-300):])
	}
	rec := p.records()[0]
	if rec.Reason != "cut_budget" || rec.Usage != "counted" || rec.Output < 450 || rec.Output > 510 || rec.Outcome != "allow" {
		t.Errorf("record %+v", rec)
	}
	p.arrived()
	p.refused(p.limited(token.Limits{"output_tokens/day": 500}), 402, "budget_spent", "budget")
}

// TestUsageIsHidden from clients that did not ask for it, and asked of the
// upstream all the same.
func TestUsageIsHidden(t *testing.T) {
	for _, tt := range []struct{ body, want string }{
		{`{"model":"small","stream":true}`, delta + done},
		{`{"model":"small","stream":true,"stream_options":{"include_usage":false,"x":1}}`, delta + done},
		{`{"model":"small","stream":true,"stream_options":null}`, delta + done},
		{`{"model":"small","stream":true,"stream_options":{"include_usage":true}}`, delta + extra + done},
	} {
		p := newPurse(t)
		p.says("text/event-stream", delta+extra+done)
		r := p.good()
		r.body = tt.body
		if got := p.send(r); got.body != tt.want {
			t.Errorf("%s gets %q, want %q", tt.body, got.body, tt.want)
		}
		if a := p.arrived(); len(a) != 1 || !strings.Contains(a[0].body, `"include_usage":true`) || strings.Count(a[0].body, "stream_options") != 1 {
			t.Errorf("of %s arrives %+v", tt.body, a)
		}
		if rec := p.records()[0]; rec.Input != 7 || rec.Output != 3 || rec.Usage != "reported" {
			t.Errorf("record %+v", rec)
		}
	}
}

// TestClientLeavesUnpaid counts what passed before a client left.
func TestClientLeavesUnpaid(t *testing.T) {
	p := newPurse(t)
	p.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, strings.Repeat(delta, 10))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	r := p.limited(token.Limits{"tokens/day": 1000})
	r.body = `{"model":"small","stream":true,"max_tokens":300}`
	ctx, cancel := context.WithCancel(t.Context())
	res := p.open(ctx, r)
	if _, err := io.ReadFull(res.Body, make([]byte, len(delta))); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = res.Body.Close()
	p.settle()
	rec := p.records()[0]
	if rec.Reason != "client_gone" || rec.Usage != "counted" || rec.Output != 10 || rec.Input == 0 {
		t.Errorf("record %+v", rec)
	}
}

// TestBrokenOff does not believe what was reported before the answer broke off.
func TestBrokenOff(t *testing.T) {
	p := newPurse(t, func(c *verifier.Config) { c.Upstreams[0].API = "anthropic" })
	p.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, `data: {"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}`+"\n\n"+
			strings.Repeat(`data: {"delta":{"type":"text_delta","text":"word"}}`+"\n\n", 20))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r := p.limited(token.Limits{"tokens/day": 1000})
	r.target, r.body = "/v1/messages", `{"model":"small","stream":true,"max_tokens":300,"messages":[]}`
	p.send(r)
	rec := p.records()[0]
	if rec.Reason != "upstream_died" || rec.Usage != "counted" || rec.Input != 9 || rec.Output != 20 {
		t.Errorf("record %+v", rec)
	}
}

// TestNotWaitedFor reckons with a call that a client left before any answer: the
// upstream is at work on it.
func TestNotWaitedFor(t *testing.T) {
	p := newPurse(t)
	arrived := make(chan struct{})
	p.answer(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	r := p.limited(token.Limits{"tokens/day": 1000})
	r.body = `{"model":"small","max_tokens":300}`
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	req := newRequest(r.method, p.url+r.target, r.body, "").WithContext(ctx)
	req.Header, req.RequestURI = r.header, ""
	if res, err := http.DefaultClient.Do(req); err == nil {
		_ = res.Body.Close()
		t.Fatal("it is answered")
	}
	p.settle()
	rec := p.records()[0]
	if rec.Reason != "client_gone" || rec.Usage != "estimated" || rec.Output != 300 || rec.Input == 0 {
		t.Errorf("record %+v", rec)
	}
}

// TestNotSent gives back what was reserved for a call that no upstream could get.
func TestNotSent(t *testing.T) {
	p := newPurse(t, func(c *verifier.Config) { c.Upstreams[0].URL = "http://127.0.0.1:1" })
	r := p.limited(token.Limits{"tokens/day": 1000, "requests/day": 1})
	for range 3 {
		if got := p.send(r); got.status != 502 {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	for _, rec := range p.records() {
		if rec.Usage != "" || rec.Output != 0 {
			t.Errorf("record %+v", rec)
		}
	}
	if len(p.usage) != 0 {
		t.Errorf("usage %+v", p.usage)
	}
}

// TestParallel lets as many calls through at once as the budgets hold.
func TestParallel(t *testing.T) {
	for limit, most := range map[string]int64{"tokens/day": 10 * 110, "requests/hour": 10, "concurrent": 10} {
		p := newPurse(t)
		release := make(chan struct{})
		p.answer(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, reported)
		})
		r := p.limited(token.Limits{limit: most})
		r.body = `{"model":"small","max_tokens":100}` // And an input of 7.
		var wg sync.WaitGroup
		var passed, refused atomic.Int64
		for range 60 {
			wg.Go(func() {
				if got := p.send(r); got.status == 200 {
					passed.Add(1)
				} else if refused.Add(1) == 50 {
					close(release)
				}
			})
		}
		wg.Wait()
		if passed.Load() != 10 || refused.Load() != 50 {
			t.Errorf("%s: %d calls passed, %d were refused, want 10 and 50", limit, passed.Load(), refused.Load())
		}
	}
}

// TestMiddlewareSpends counts what a handler in this process answers.
func TestMiddlewareSpends(t *testing.T) {
	p := newPurse(t)
	p.serve(p.v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, reported)
	})))
	r := p.limited(token.Limits{"tokens/day": 1000})
	for range 2 {
		if got := p.send(r); got.status != 200 || got.header.Get("RateLimit") == "" {
			t.Fatalf("%d %s %v", got.status, got.body, got.header)
		}
	}
	for _, rec := range p.records() {
		if rec.Input != 7 || rec.Output != 3 || rec.Cached != 4 || rec.Usage != "reported" {
			t.Errorf("record %+v", rec)
		}
	}
}

// TestAuthzLimits counts requests of calls that others forward, and refuses tokens
// with limits that could not be held.
func TestAuthzLimits(t *testing.T) {
	p := newPurse(t, func(c *verifier.Config) { c.Upstreams[0].Models = []string{"small"} })
	authz, err := p.v.Authz("toy")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(limits token.Limits, seen bool) *httptest.ResponseRecorder {
		tok := p.keys.token(func(c *token.Claims) { c.Limits = limits })
		r := newRequest("POST", "/v1/chat/completions", `{"model":"small"}`, tok)
		if !seen {
			r.Body, r.ContentLength = nil, 0
		}
		return record(authz, r)
	}
	for _, seen := range []bool{true, false} {
		limits := token.Limits{"requests/day": map[bool]int64{true: 2, false: 4}[seen]}
		for range 2 {
			if w := ask(limits, seen); w.Code != 200 || w.Header().Get("RateLimit") == "" {
				t.Errorf("seen %t: %d %s", seen, w.Code, w.Body)
			}
		}
		if w := ask(limits, seen); w.Code != 402 {
			t.Errorf("seen %t: %d %s, want 402", seen, w.Code, w.Body)
		}
		for _, limits := range []token.Limits{{"tokens/day": 1000}, {"concurrent": 5}, {"output_tokens/day": 7, "requests/day": 100}} {
			if w := ask(limits, seen); w.Code != 403 || !strings.Contains(w.Body.String(), "limits_not_enforced") {
				t.Errorf("seen %t, %v: %d %s, want 403", seen, limits, w.Code, w.Body)
			}
		}
	}
	if w := ask(token.Limits{"requests/day@small": 100}, false); w.Code != 403 {
		t.Errorf("a limit of one model, of a call to who knows which: %d %s", w.Code, w.Body)
	}
}

// TestLedgerLost refuses calls with limits, and no others.
func TestLedgerLost(t *testing.T) {
	p := newPurse(t, func(c *verifier.Config) {})
	b, err := verifier.NewBudgets(verifier.BudgetsConfig{Engine: noLedger{}, Now: p.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = b.Run(ctx) }()
	h := newHouse(t, func(c *verifier.Config) { c.Issuers[0].Budgets = b })
	r := h.good()
	r.header.Set("Authorization", "Bearer "+h.keys.token(func(c *token.Claims) { c.Limits = token.Limits{"tokens/day": 100} }))
	got := h.refused(r, 503, "ledger_unavailable", "ledger")
	if got.header.Get("Retry-After") == "" {
		t.Errorf("%v", got.header)
	}
	if got := h.send(h.good()); got.status != 200 {
		t.Errorf("a call without limits: %d %s", got.status, got.body)
	}
}

// noLedger is one that does not answer.
type noLedger struct{}

func (noLedger) Sync(context.Context, string, time.Duration, []ledger.Claim) ([]ledger.Share, error) {
	return nil, io.ErrUnexpectedEOF
}
