package issuer

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/strictjson"
)

// How fresh revocations are.
const (
	feedEvery  = 500 * time.Millisecond // How soon this issuer sees what another revoked.
	feedResign = 30 * time.Second       // How old a signed document gets while nothing changes.
	feedWait   = 25 * time.Second       // How long a question waits for news.
)

// feed keeps the signed revocation document.
type feed struct {
	s    *Server
	mu   sync.Mutex // Held to load and sign.
	held atomic.Pointer[published]
}

// published is a signed document. It never changes.
type published struct {
	set    *revocation.Set
	signed string
	etag   string
	tokens int           // How many tokens it revokes one by one.
	after  chan struct{} // Closed when the next one is there.
}

// current is the latest document, empty before the first.
func (f *feed) current() *published { return f.held.Load() }

func newFeed(s *Server) *feed {
	f := &feed{s: s}
	f.held.Store(&published{set: revocation.NewSet(revocation.Document{}), after: make(chan struct{})})
	return f
}

// run keeps the document as fresh as the database until ctx ends.
func (f *feed) run(ctx context.Context) error {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	for {
		if err := f.refresh(ctx, f.s.Now()); err != nil && ctx.Err() == nil {
			f.s.Log.Error("publishing revocations", "err", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// refresh loads and signs anew what has changed or grown old.
func (f *feed) refresh(ctx context.Context, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var generation int64
	if err := f.s.DB.QueryRowContext(ctx, `SELECT value FROM counters WHERE name = 'revocations'`).Scan(&generation); err != nil {
		return fmt.Errorf("reading revocations: %w", err)
	}
	old := f.held.Load()
	if old.signed != "" && old.set.Generation == generation && now.Sub(old.set.IssuedAt) < feedResign && !now.Before(old.set.IssuedAt) {
		return nil
	}
	d, err := f.load(ctx, generation, now)
	if err != nil {
		return err
	}
	payload, err := d.Encode()
	if err != nil {
		return err
	}
	signed, err := f.s.Signer.Sign(payload, revocation.Type)
	if err != nil {
		return fmt.Errorf("signing revocations: %w", err)
	}
	tokens := 0
	for _, e := range d.Entries {
		if e.What == revocation.Token {
			tokens++
		}
	}
	f.held.Store(&published{
		set: revocation.NewSet(d), signed: signed, tokens: tokens, after: make(chan struct{}),
		etag: `"` + strconv.FormatInt(d.Generation, 10) + "-" + strconv.FormatInt(d.IssuedAt.Unix(), 10) + `"`,
	})
	close(old.after)
	return nil
}

// load reads what is revoked. Where that is more than a document holds,
// everything is: to refuse too much costs an exchange, too little a break-in.
func (f *feed) load(ctx context.Context, generation int64, now time.Time) (revocation.Document, error) {
	d := revocation.Document{Issuer: f.s.URL, Generation: generation, IssuedAt: now.Truncate(time.Second), Entries: []revocation.Entry{}}
	rows, err := f.s.DB.QueryContext(ctx, `SELECT what, value, not_before, until FROM revocations WHERE until > $1 ORDER BY generation LIMIT $2`,
		now.Unix(), revocation.MaxEntries+1)
	if err != nil {
		return d, fmt.Errorf("reading revocations: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var e revocation.Entry
		var value string
		var before, until int64
		if err := rows.Scan(&e.What, &value, &before, &until); err != nil {
			return d, fmt.Errorf("reading revocations: %w", err)
		}
		e.NotBefore, e.Until = time.Unix(before, 0), time.Unix(until, 0)
		if e.What != revocation.All {
			e.Value = revocation.Hash(e.What, value)
		}
		d.Entries = append(d.Entries, e)
	}
	if err := rows.Err(); err != nil {
		return d, fmt.Errorf("reading revocations: %w", err)
	}
	if len(d.Entries) > revocation.MaxEntries {
		f.s.alarm(ctx, overflowAlert(now))
		d.Entries = []revocation.Entry{{What: revocation.All, NotBefore: d.IssuedAt.Add(time.Second), Until: lastExpiry(now)}}
	}
	return d, nil
}

// revocations is GET /revocations: the signed document. With ?after=GENERATION
// the answer waits a while for a later one.
func (s *Server) revocations(w http.ResponseWriter, r *http.Request) error {
	q, err := readQuery(r, "after")
	if err != nil {
		return err
	}
	p := s.feed.current()
	if text, wait := q["after"]; wait {
		after, err := strconv.ParseInt(text, 10, 64)
		if err != nil || after < 0 {
			return badRequest("after must be a generation.")
		}
		p = s.feed.await(r.Context(), after)
	}
	if p.signed == "" {
		return &reply.Refusal{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Detail: "Nothing is published yet.", RetryAfter: time.Second}
	}
	h := w.Header()
	h.Set("Content-Type", "application/"+revocation.Type)
	h.Set("Cache-Control", "public, max-age=1")
	h.Set("ETag", p.etag)
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(p.signed)) // Knows HEAD and If-None-Match.
	return nil
}

// await returns the first document later than a generation, or the latest there
// is when the wait is over.
func (f *feed) await(ctx context.Context, after int64) *published {
	ctx, cancel := context.WithTimeout(ctx, feedWait)
	defer cancel()
	for {
		p := f.current()
		if p.set.Generation > after {
			return p
		}
		select {
		case <-p.after:
		case <-ctx.Done():
			return p
		case <-f.s.stopping:
			return p
		}
	}
}

// acknowledge is POST /revocations/ack: a verifier, by its own machine key, says
// which generation it enforces: {"name": "gpu-7", "generation": 12}.
func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request) error {
	return s.forVerifier(r, func(key policy.Key, now time.Time) error {
		if err := s.acknowledged(r, key, now); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (s *Server) acknowledged(r *http.Request, key policy.Key, now time.Time) error {
	var name string
	var generation int64 = -1
	if err := readBody(r, map[string]func(strictjson.Value) bool{
		"name": textInto(&name),
		"generation": func(v strictjson.Value) (ok bool) {
			generation, ok = v.Int()
			return ok
		},
	}); err != nil {
		return err
	}
	if generation > s.feed.current().set.Generation {
		// Another issuer may have published it a moment ago.
		if err := s.feed.refresh(r.Context(), now); err != nil {
			return err
		}
	}
	if name == "" || generation < 0 || generation > s.feed.current().set.Generation {
		return badRequest("name and generation must be there, the generation one that was published.")
	}
	_, err := s.DB.ExecContext(r.Context(), `INSERT INTO verifiers (key_id, name, generation, seen_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (key_id, name) DO UPDATE SET generation = excluded.generation, seen_at = excluded.seen_at`, key.ID, name, generation, now.Unix())
	if err != nil {
		return fmt.Errorf("noting a verifier: %w", err)
	}
	return nil
}

// verifierState is what is known of one verifier.
type verifierState struct {
	Key        string    `json:"key_id"`
	Name       string    `json:"name"`
	Generation int64     `json:"generation"`
	SeenAt     time.Time `json:"seen_at"`
}

// forgetVerifier is how long after its last word a verifier counts.
const forgetVerifier = 10 * time.Minute

// listVerifiers is GET /v1/verifiers: who enforces the latest revocations, of
// those heard of lately.
func (s *Server) listVerifiers(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "verifier.list", http.StatusOK, func(p person, _ *audit.Record, now time.Time) (any, error) {
		if !s.mayRead(p) {
			return nil, errRole
		}
		rows, err := s.DB.QueryContext(r.Context(), `SELECT key_id, name, generation, seen_at FROM verifiers WHERE seen_at > $1 ORDER BY name, key_id LIMIT 10000`,
			now.Add(-forgetVerifier).Unix())
		if err != nil {
			return nil, fmt.Errorf("listing verifiers: %w", err)
		}
		defer func() { _ = rows.Close() }()
		latest, confirmed, list := s.feed.current().set.Generation, 0, []verifierState{}
		for rows.Next() {
			var v verifierState
			var seen int64
			if err := rows.Scan(&v.Key, &v.Name, &v.Generation, &seen); err != nil {
				return nil, fmt.Errorf("listing verifiers: %w", err)
			}
			v.SeenAt = time.Unix(seen, 0).UTC()
			if v.Generation >= latest {
				confirmed++
			}
			list = append(list, v)
		}
		if err := rows.Err(); err != nil {
			return nil, fmt.Errorf("listing verifiers: %w", err)
		}
		return map[string]any{"generation": latest, "confirmed": confirmed, "verifiers": list}, nil
	})
}
