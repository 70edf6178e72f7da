package jwks_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
)

const keysURL = "https://issuer.example/jwks.json"

// An issuer answers in memory, so that time can stand still around it.
type issuer struct {
	mu      sync.Mutex
	answer  func(*http.Request) (*http.Response, error)
	fetches []time.Time
	asked   []*http.Request
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.fetches, i.asked = append(i.fetches, time.Now()), append(i.asked, r)
	answer := i.answer
	i.mu.Unlock()
	return answer(r)
}

func (i *issuer) set(answer func(*http.Request) (*http.Response, error)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *issuer) times() []time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.fetches)
}

func (i *issuer) count() int { return len(i.times()) }

// gaps are the times between one fetch and the next.
func (i *issuer) gaps() []time.Duration {
	var gaps []time.Duration
	times := i.times()
	for n := 1; n < len(times); n++ {
		gaps = append(gaps, times[n].Sub(times[n-1]))
	}
	return gaps
}

func respond(status int, header http.Header, body io.Reader) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(body), Request: r, ContentLength: -1}, nil
	}
}

// serving answers with doc each time.
func serving(doc []byte) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return respond(http.StatusOK, http.Header{"Content-Type": {"application/jwk-set+json"}}, bytes.NewReader(doc))(r)
	}
}

func down(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func hanging(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// newRemote returns a remote of i. In a bubble, run starts it and stops it
// with the test.
func newRemote(t *testing.T, i *issuer, change func(*jwks.Config)) *jwks.Remote {
	t.Helper()
	c := jwks.Config{URL: keysURL, Client: &http.Client{Transport: i}, Profile: ours}
	if change != nil {
		change(&c)
	}
	r, err := jwks.NewRemote(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs r until the returned function, which waits for its end.
func run(t *testing.T, r *jwks.Remote) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestNewRemoteRefuses(t *testing.T) {
	good := jwks.Config{URL: keysURL, Profile: ours}
	if _, err := jwks.NewRemote(good); err != nil {
		t.Fatalf("NewRemote(good) = %v", err)
	}
	for _, u := range []string{"http://localhost:8080/jwks", "http://127.0.0.1/jwks", "http://127.8.8.8/jwks", "http://[::1]:1/jwks", "https://10.0.0.1/jwks"} {
		c := good
		c.URL = u
		if _, err := jwks.NewRemote(c); err != nil {
			t.Errorf("NewRemote(%s) = %v", u, err)
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(*jwks.Config)
	}{
		{"no URL", func(c *jwks.Config) { c.URL = "" }},
		{"no scheme", func(c *jwks.Config) { c.URL = "issuer.example/jwks" }},
		{"plain http", func(c *jwks.Config) { c.URL = "http://issuer.example/jwks" }},
		{"plain http to a private network", func(c *jwks.Config) { c.URL = "http://10.0.0.1/jwks" }},
		{"name that begins like localhost", func(c *jwks.Config) { c.URL = "http://localhost.evil.example/jwks" }},
		{"file", func(c *jwks.Config) { c.URL = "file:///etc/passwd" }},
		{"user in the URL", func(c *jwks.Config) { c.URL = "https://user@issuer.example/jwks" }},
		{"not a URL", func(c *jwks.Config) { c.URL = "https://issuer.example/%zz" }},
		{"no types", func(c *jwks.Config) { c.Profile.Types = nil }},
		{"no algorithms", func(c *jwks.Config) { c.Profile.Algorithms = nil }},
		{"alg none", func(c *jwks.Config) { c.Profile.Algorithms = []string{"none"} }},
		{"alg HS256", func(c *jwks.Config) { c.Profile.Algorithms = []string{"ES256", "HS256"} }},
		{"negative bound", func(c *jwks.Config) { c.Profile.MaxBytes = -1 }},
		{"negative time", func(c *jwks.Config) { c.MaxStale = -1 }},
	} {
		c := good
		tt.spoil(&c)
		if _, err := jwks.NewRemote(c); err == nil {
			t.Errorf("NewRemote(%s) succeeds", tt.name)
		}
	}
	_, err := jwks.NewRemote(jwks.Config{URL: "https://user:hunter2@issuer.example/"})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("NewRemote(password in the URL) = %v, want an error without it", err)
	}
}

// The life of a key: published, rotated in, withdrawn.
func TestRemoteFollowsTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: serving(documentOf(t, "ec"))}
		r := newRemote(t, i, nil)
		first, second := parties()["ec"].good(t), parties()["ec2"].good(t)

		if _, err := r.Verify(first, time.Now()); !errors.Is(err, token.ErrKeysStale) {
			t.Errorf("before Run: Verify = %v, want ErrKeysStale", err)
		}
		if _, err := r.Generation(time.Now()); !errors.Is(err, token.ErrKeysStale) {
			t.Errorf("before Run: Generation = %v, want ErrKeysStale", err)
		}
		if s := r.Status(time.Now()); s.Ready || s.Generation != 0 || !s.LastGood.IsZero() {
			t.Errorf("before Run: Status = %+v", s)
		}
		defer run(t, r)()
		if payload, err := r.Verify(first, time.Now()); err != nil || string(payload) != `{"sub":"alice"}` {
			t.Errorf("Verify = %q, %v", payload, err)
		}
		if s := r.Status(time.Now()); !s.Ready || s.Keys != 1 || s.Generation != 1 || s.LastError != "" || !s.LastGood.Equal(time.Now()) {
			t.Errorf("Status = %+v", s)
		}

		sleep(time.Minute)
		i.set(serving(documentOf(t, "ec", "ec2")))
		if _, err := r.Verify(second, time.Now()); !errors.Is(err, token.ErrUnknownKey) {
			t.Errorf("a key not seen yet: Verify = %v, want ErrUnknownKey", err)
		}
		synctest.Wait() // The early refresh.
		if _, err := r.Verify(second, time.Now()); err != nil {
			t.Errorf("after the early refresh: Verify = %v", err)
		}
		if g, err := r.Generation(time.Now()); g != 2 || err != nil {
			t.Errorf("Generation = %d, %v, want 2", g, err)
		}

		sleep(6 * time.Minute) // An identical document.
		if g, _ := r.Generation(time.Now()); g != 2 || i.count() != 3 {
			t.Errorf("Generation = %d after %d fetches, want 2 after 3", g, i.count())
		}
		i.set(serving(documentOf(t, "ec2")))
		sleep(6 * time.Minute)
		if _, err := r.Verify(first, time.Now()); !errors.Is(err, token.ErrUnknownKey) {
			t.Errorf("a withdrawn key: Verify = %v, want ErrUnknownKey", err)
		}
		if g, _ := r.Generation(time.Now()); g != 3 {
			t.Errorf("Generation = %d, want 3", g)
		}
		if err := r.Run(t.Context()); err == nil {
			t.Error("a second Run succeeds")
		}
	})
}

func TestRemoteRefreshesWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: serving(documentOf(t, "ec"))}
		defer run(t, newRemote(t, i, nil))()
		sleep(100 * time.Hour)
		distinct := map[time.Duration]bool{}
		for n, gap := range i.gaps() {
			if gap < 270*time.Second || gap > 330*time.Second {
				t.Errorf("fetch %d comes after %s, want 5m ± 10 %%", n+1, gap)
			}
			distinct[gap.Truncate(time.Second)] = true
		}
		if len(distinct) < 30 {
			t.Errorf("only %d different gaps in %d fetches: no jitter", len(distinct), i.count())
		}
	})
}

// Made-up kids cost the issuer one fetch per cooldown, whatever their number.
func TestRemoteFloodOfUnknownKids(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: serving(documentOf(t, "ec"))}
		r := newRemote(t, i, func(c *jwks.Config) { c.Refresh = 1000 * time.Hour })
		defer run(t, r)()
		ec := parties()["ec"]
		good := ec.good(t)
		tail := good[strings.IndexByte(good, '.'):]
		for n := range 10_000 { // 100 a second, for 100 s.
			header := fmt.Sprintf(`{"alg":"ES256","kid":"made-up-%d","typ":"at+jwt"}`, n)
			if _, err := r.Verify(b64([]byte(header))+tail, time.Now()); !errors.Is(err, token.ErrUnknownKey) {
				t.Fatalf("Verify = %v, want ErrUnknownKey", err)
			}
			sleep(10 * time.Millisecond)
		}
		// At 0 s the first; then early ones at 0, 30, 60 and 90 s.
		if n := i.count(); n != 5 {
			t.Errorf("%d fetches in 100 s, want 5", n)
		}
		for n, gap := range i.gaps()[1:] {
			if gap < 30*time.Second {
				t.Errorf("early fetch %d comes %s after the last, want at least 30s", n+2, gap)
			}
		}
		sleep(time.Hour)
		if n := i.count(); n > 6 {
			t.Errorf("%d fetches an hour after the flood, want no more than the one asked for last", n)
		}
	})
}

// Many unknown kids at one moment are answered by one fetch, even a slow one.
func TestRemoteBurstOfUnknownKids(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: serving(documentOf(t, "ec"))}
		r := newRemote(t, i, func(c *jwks.Config) { c.Refresh = 1000 * time.Hour })
		defer run(t, r)()
		i.set(func(q *http.Request) (*http.Response, error) {
			time.Sleep(5 * time.Second)
			return serving(documentOf(t, "ec", "ec2"))(q)
		})
		unknown := parties()["ec2"].good(t)
		for range 100 {
			_, _ = r.Verify(unknown, time.Now())
			sleep(10 * time.Millisecond)
		}
		sleep(time.Hour)
		if n := i.count(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
	})
}

// A bad signature says nothing about our keys, and anybody can send one.
func TestRemoteFloodOfBadSignatures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: serving(documentOf(t, "ec", "ed"))}
		r := newRemote(t, i, func(c *jwks.Config) { c.Refresh = 1000 * time.Hour })
		defer run(t, r)()
		signed := b64([]byte(goodHeader)) + "." + b64([]byte(`{}`))
		bad := []struct {
			raw  string
			want error
		}{
			{signed + "." + b64(make([]byte, 64)), token.ErrSignature}, // Zeros are refused without much work.
			{signed + ".AA", token.ErrSignature},
			{"junk", token.ErrMalformed},
			{b64([]byte(`{"alg":"none","kid":"made-up","typ":"at+jwt"}`)) + ".e30.AA", token.ErrAlgorithm},
			{b64([]byte(`{"alg":"ES256","kid":"made-up","typ":"JWT"}`)) + ".e30.AA", token.ErrType},
		}
		for n := range 10_000 {
			b := bad[n%len(bad)]
			if _, err := r.Verify(b.raw, time.Now()); !errors.Is(err, b.want) {
				t.Fatalf("Verify = %v, want %v", err, b.want)
			}
			if n%100 == 0 {
				sleep(time.Second)
			}
		}
		if n := i.count(); n != 1 {
			t.Errorf("%d fetches, want the first alone", n)
		}
	})
}

func TestRemoteBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: down}
		defer run(t, newRemote(t, i, nil))()
		sleep(10 * time.Minute)
		gaps := i.gaps()
		for n, w := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			w *= time.Second
			if gap := gaps[n]; gap < w*9/10 || gap > w*11/10 {
				t.Errorf("try %d comes after %s, want %s ± 10 %%", n+1, gap, w)
			}
		}
	})
}

// The issuer comes up 20 s after the verifier.
func TestRemoteStartsBeforeTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: down}
		r := newRemote(t, i, nil)
		defer run(t, r)()
		sleep(20 * time.Second)
		if s := r.Status(time.Now()); s.Ready || !strings.Contains(s.LastError, "connection refused") {
			t.Errorf("Status = %+v, want not ready and why", s)
		}
		i.set(serving(documentOf(t, "ec")))
		sleep(16 * time.Second)
		if s := r.Status(time.Now()); !s.Ready || s.LastError != "" {
			t.Errorf("Status = %+v 16 s after the issuer came up, want ready", s)
		}
		n := i.count()
		sleep(4 * time.Minute)
		if i.count() != n {
			t.Error("the back-off goes on after success")
		}
		i.set(down) // Again; the back-off begins anew.
		sleep(90 * time.Second)
		if gaps := i.gaps(); gaps[n] > 1100*time.Millisecond || gaps[n+1] > 2200*time.Millisecond {
			t.Errorf("after the second failure the tries are %s apart, want 1s and 2s first", gaps[n:])
		}
	})
}

// With calls coming in there is no need to wait for the back-off.
func TestRemoteCallsHastenTheFirstKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: down}
		r := newRemote(t, i, nil)
		defer run(t, r)()
		sleep(30 * time.Minute) // Tries are a minute apart by now.
		i.set(serving(documentOf(t, "ec")))
		raw := parties()["ec"].good(t)
		if _, err := r.Verify(raw, time.Now()); !errors.Is(err, token.ErrKeysStale) {
			t.Errorf("Verify = %v, want ErrKeysStale", err)
		}
		synctest.Wait()
		if _, err := r.Verify(raw, time.Now()); err != nil {
			t.Errorf("Verify after the early refresh = %v", err)
		}
	})
}

// Calls go on through an outage until the keys are too old, and at once after.
func TestRemoteOutage(t *testing.T) {
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){"down": down, "hanging": hanging} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{answer: serving(documentOf(t, "ec"))}
				r := newRemote(t, i, nil)
				defer run(t, r)()
				i.set(answer)
				raw, start := parties()["ec"].good(t), time.Now()
				for range 60 * 60 {
					before := time.Now()
					if _, err := r.Verify(raw, before); err != nil {
						t.Fatalf("Verify after %s = %v", before.Sub(start), err)
					}
					if took := time.Since(before); took != 0 {
						t.Fatalf("Verify waits %s for the issuer", took)
					}
					sleep(time.Second)
				}
				sleep(time.Second)
				if _, err := r.Verify(raw, time.Now()); !errors.Is(err, token.ErrKeysStale) {
					t.Errorf("Verify after an hour = %v, want ErrKeysStale", err)
				}
				if _, err := r.Generation(time.Now()); !errors.Is(err, token.ErrKeysStale) {
					t.Errorf("Generation after an hour = %v, want ErrKeysStale", err)
				}
				if s := r.Status(time.Now()); s.Ready || s.LastError == "" || !s.LastGood.Equal(start) {
					t.Errorf("Status = %+v", s)
				}
				i.set(serving(documentOf(t, "ec")))
				sleep(67 * time.Second)
				if _, err := r.Verify(raw, time.Now()); err != nil {
					t.Errorf("Verify after the outage = %v", err)
				}
				if g, _ := r.Generation(time.Now()); g != 1 {
					t.Errorf("Generation = %d, want 1: the keys are the same", g)
				}
			})
		})
	}
}

// Whatever is wrong with an answer, what was good before stays.
func TestRemoteKeepsTheOldSet(t *testing.T) {
	doc := documentOf(t, "ec2")
	json := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
	with := func(h http.Header, name, value string) http.Header {
		h = h.Clone()
		h.Set(name, value)
		return h
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 50<<20))
	_, _ = z.Write(doc)
	_ = z.Close()
	private := parties()["ec2"].jwk(t)
	private["d"] = secret
	for _, tt := range []struct {
		name   string
		answer func() func(*http.Request) (*http.Response, error)
		good   bool
	}{
		{"good", func() func(*http.Request) (*http.Response, error) { return respond(200, json, bytes.NewReader(doc)) }, true},
		{"503", func() func(*http.Request) (*http.Response, error) { return respond(503, json, bytes.NewReader(doc)) }, false},
		{"204", func() func(*http.Request) (*http.Response, error) { return respond(204, json, strings.NewReader("")) }, false},
		{"206", func() func(*http.Request) (*http.Response, error) { return respond(206, json, bytes.NewReader(doc)) }, false},
		{"304 unasked", func() func(*http.Request) (*http.Response, error) { return respond(304, json, strings.NewReader("")) }, false},
		{"redirect", func() func(*http.Request) (*http.Response, error) {
			return func(r *http.Request) (*http.Response, error) {
				if r.URL.String() != keysURL {
					return serving(doc)(r)
				}
				return respond(302, with(json, "Location", "https://evil.example/jwks"), bytes.NewReader(doc))(r)
			}
		}, false},
		{"HTML", func() func(*http.Request) (*http.Response, error) {
			return respond(200, http.Header{"Content-Type": {"text/html"}}, bytes.NewReader(doc))
		}, false},
		{"no content type", func() func(*http.Request) (*http.Response, error) {
			return respond(200, http.Header{}, bytes.NewReader(doc))
		}, false},
		{"odd content type", func() func(*http.Request) (*http.Response, error) {
			return respond(200, http.Header{"Content-Type": {"application/json;;"}}, bytes.NewReader(doc))
		}, false},
		{"no keys", func() func(*http.Request) (*http.Response, error) {
			return respond(200, json, strings.NewReader(`{"keys":[]}`))
		}, false},
		{"empty object", func() func(*http.Request) (*http.Response, error) { return respond(200, json, strings.NewReader(`{}`)) }, false},
		{"cut off", func() func(*http.Request) (*http.Response, error) {
			return respond(200, json, bytes.NewReader(doc[:len(doc)-2]))
		}, false},
		{"private key", func() func(*http.Request) (*http.Response, error) {
			return respond(200, json, bytes.NewReader(document(t, private)))
		}, false},
		{"50 MB", func() func(*http.Request) (*http.Response, error) {
			return respond(200, json, io.MultiReader(bytes.NewReader(doc), strings.NewReader(strings.Repeat(" ", 50<<20))))
		}, false},
		{"gzip bomb", func() func(*http.Request) (*http.Response, error) {
			return respond(200, with(json, "Content-Encoding", "gzip"), bytes.NewReader(bomb.Bytes()))
		}, false},
		{"said to be compressed", func() func(*http.Request) (*http.Response, error) {
			return respond(200, with(json, "Content-Encoding", "br"), bytes.NewReader(doc))
		}, false},
		{"one byte a second", func() func(*http.Request) (*http.Response, error) {
			return func(r *http.Request) (*http.Response, error) {
				return respond(200, json, &slow{r.Context(), doc})(r)
			}
		}, false},
		{"connection lost in the body", func() func(*http.Request) (*http.Response, error) {
			return respond(200, json, io.MultiReader(bytes.NewReader(doc), failing{}))
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				i := &issuer{answer: serving(documentOf(t, "ec"))}
				r := newRemote(t, i, func(c *jwks.Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
				stop := run(t, r)
				i.set(tt.answer())
				sleep(330 * time.Second)
				sleep(10 * time.Second) // The bound of a fetch.
				stop()
				if i.count() < 2 {
					t.Fatal("no second fetch")
				}
				s := r.Status(time.Now())
				if (s.LastError == "") != tt.good {
					t.Errorf("Status = %+v, want a good fetch %v", s, tt.good)
				}
				if _, err := r.Verify(parties()["ec"].good(t), time.Now()); (err == nil) == tt.good {
					t.Errorf("Verify(old key) = %v, want accepted %v", err, !tt.good)
				}
				if _, err := r.Verify(parties()["ec2"].good(t), time.Now()); (err == nil) != tt.good {
					t.Errorf("Verify(new key) = %v, want accepted %v", err, tt.good)
				}
				if strings.Contains(log.String()+s.LastError, secret[:8]) {
					t.Errorf("the log shows a private key: %s", log.String())
				}
				if !tt.good && !strings.Contains(log.String(), `"level":"WARN"`) {
					t.Errorf("nothing in the log: %s", log.String())
				}
				for _, q := range i.asked {
					if q.Header.Get("Accept-Encoding") != "identity" || q.URL.String() != keysURL {
						t.Errorf("asked for %s with Accept-Encoding %q", q.URL, q.Header.Get("Accept-Encoding"))
					}
				}
			})
		})
	}
}

// slow gives a byte a second, until its request ends.
type slow struct {
	ctx  context.Context
	rest []byte
}

func (s *slow) Read(p []byte) (int, error) {
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(time.Second):
	}
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	p[0], s.rest = s.rest[0], s.rest[1:]
	return 1, nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRemoteETag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := jwks.Handler(func() []byte { return documentOf(t, "ec") }, time.Minute, nil)
		statuses := []int{}
		i := &issuer{answer: func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			statuses = append(statuses, w.Code)
			res := w.Result()
			res.Request = r
			return res, nil
		}}
		r := newRemote(t, i, nil)
		defer run(t, r)()
		sleep(3 * time.Hour)
		if statuses[0] != 200 || statuses[1] != 304 || statuses[len(statuses)-1] != 304 {
			t.Errorf("answers %v, want 200 and then 304", statuses)
		}
		if _, err := r.Verify(parties()["ec"].good(t), time.Now()); err != nil {
			t.Errorf("Verify after three hours of 304 = %v", err)
		}
		if g, err := r.Generation(time.Now()); g != 1 || err != nil {
			t.Errorf("Generation = %d, %v, want 1", g, err)
		}
	})
}

// The wall clock jumps; the timers do not care.
func TestRemoteClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var offset atomic.Int64
			wall := func() time.Time { return time.Now().Round(0).Add(time.Duration(offset.Load())) }
			i := &issuer{answer: serving(documentOf(t, "ec"))}
			r := newRemote(t, i, func(c *jwks.Config) { c.Now = wall })
			defer run(t, r)()
			raw := parties()["ec"].good(t)
			sleep(time.Minute)
			offset.Store(int64(jump))
			_, err := r.Verify(raw, wall())
			if jump > 0 && !errors.Is(err, token.ErrKeysStale) || jump < 0 && err != nil {
				t.Errorf("Verify right after %s = %v", jump, err)
			}
			synctest.Wait() // A stale set asks for an early refresh.
			if _, err := r.Verify(raw, wall()); err != nil {
				t.Errorf("Verify a moment after %s = %v", jump, err)
			}
			sleep(time.Hour)
			if n := i.count(); n < 11 || n > 15 {
				t.Errorf("%d fetches in an hour after a jump of %s, want about 12", n, jump)
			}
		})
	}
}

// A set is old when either clock says so: the wall clock may be set back, and
// the monotonic one stands still while a machine sleeps.
func TestRemoteOldByEitherClock(t *testing.T) {
	start := time.Now() // Outside of a bubble, which has no monotonic clock.
	stopped := make(chan struct{})
	i := &issuer{answer: serving(documentOf(t, "ec"))}
	r := newRemote(t, i, func(c *jwks.Config) { c.Now = func() time.Time { return start } })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(stopped); _ = r.Run(ctx) }()
	for !r.Status(start).Ready {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-stopped
	raw := parties()["ec"].good(t)
	for _, tt := range []struct {
		name            string
		monotonic, wall time.Duration
		stale           bool
	}{
		{"both young", 59 * time.Minute, 59 * time.Minute, false},
		{"both old", 61 * time.Minute, 61 * time.Minute, true},
		{"asleep", time.Minute, 61 * time.Minute, true},
		{"set back", 61 * time.Minute, time.Minute, true},
		{"set back to before the fetch", 61 * time.Minute, -time.Hour, true},
	} {
		now := shiftWall(start.Add(tt.monotonic), tt.wall-tt.monotonic)
		if got := now.Sub(start); got != tt.monotonic {
			t.Fatalf("the monotonic clock shows %s, want %s", got, tt.monotonic)
		}
		if got := now.Round(0).Sub(start.Round(0)); got != tt.wall {
			t.Fatalf("the wall clock shows %s, want %s", got, tt.wall)
		}
		if _, err := r.Verify(raw, now); errors.Is(err, token.ErrKeysStale) != tt.stale {
			t.Errorf("Verify(%s) = %v, want stale %v", tt.name, err, tt.stale)
		}
	}
}

// shiftWall sets the wall clock of t, whole seconds, and leaves the monotonic
// one alone. Only a machine can do that; so this reaches into time.Time, whose
// first word holds seconds from bit 30 on.
func shiftWall(t time.Time, by time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(by/time.Second) << 30
	return t
}

// Stopped in the middle of a fetch, the issuer is not to blame.
func TestRemoteStopsDuringAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRemote(t, &issuer{answer: hanging}, func(c *jwks.Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
		stop := run(t, r)
		stop()
		if s := r.Status(time.Now()); s.LastError != "" || log.Len() != 0 {
			t.Errorf("Status = %+v, log: %s", s, log.String())
		}
	})
}

// However much an issuer sends, little more than the bound is read.
func TestRemoteReadsNoMoreThanTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &counting{Reader: io.MultiReader(bytes.NewReader(documentOf(t, "ec")), strings.NewReader(strings.Repeat(" ", 50<<20)))}
		i := &issuer{answer: respond(200, http.Header{"Content-Type": {"application/json"}}, body)}
		stop := run(t, newRemote(t, i, nil))
		stop()
		if body.n < jwks.MaxDocument || body.n > 2*jwks.MaxDocument {
			t.Errorf("%d bytes were read, want little more than %d", body.n, jwks.MaxDocument)
		}
	})
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func TestRemoteLongETag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		header := http.Header{"Content-Type": {"application/json"}, "Etag": {`"` + strings.Repeat("x", 300) + `"`}}
		i := &issuer{answer: func(r *http.Request) (*http.Response, error) {
			return respond(200, header, bytes.NewReader(documentOf(t, "ec")))(r)
		}}
		stop := run(t, newRemote(t, i, nil))
		sleep(6 * time.Minute)
		stop()
		if len(i.asked) != 2 || i.asked[1].Header.Get("If-None-Match") != "" {
			t.Errorf("%d fetches, the last with %v, want two without If-None-Match", len(i.asked), i.asked[1].Header)
		}
	})
}

func TestRemoteSnapshot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	withSnapshot := func(c *jwks.Config) { c.Snapshot = path }
	raw := parties()["ec"].good(t)
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: serving(documentOf(t, "ec", "rsa"))}
		stop := run(t, newRemote(t, i, withSnapshot))
		stop()
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the snapshot: %v, %v, want mode 0600", info, err)
		}

		// A restart while the issuer is down.
		sleep(40 * time.Minute)
		r := newRemote(t, &issuer{answer: down}, withSnapshot)
		if payload, err := r.Verify(raw, time.Now()); err != nil || string(payload) != `{"sub":"alice"}` {
			t.Errorf("Verify by the snapshot = %q, %v", payload, err)
		}
		if s := r.Status(time.Now()); !s.Ready || s.Keys != 2 || s.Generation != 1 {
			t.Errorf("Status by the snapshot = %+v", s)
		}
		stop = run(t, r)
		// The age counts across the restart.
		sleep(21 * time.Minute)
		if _, err := r.Verify(raw, time.Now()); !errors.Is(err, token.ErrKeysStale) {
			t.Errorf("Verify 61 min after the fetch = %v, want ErrKeysStale", err)
		}
		stop()

		// The issuer has the same keys still: the snapshot is as of now again.
		stop = run(t, newRemote(t, i, withSnapshot))
		stop()
		r = newRemote(t, &issuer{answer: down}, withSnapshot)
		if _, err := r.Verify(raw, time.Now()); err != nil {
			t.Errorf("Verify after the snapshot was renewed = %v", err)
		}
	})
}

func TestRemoteRefusesSnapshots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	withSnapshot := func(c *jwks.Config) { c.Snapshot = path }
	var good []byte
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: serving(documentOf(t, "ec"))}
		stop := run(t, newRemote(t, i, func(c *jwks.Config) {
			c.Snapshot = path
			c.Now = func() time.Time { return time.Unix(1_800_000_000, 0) }
		}))
		stop()
		var err error
		if good, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	})
	now := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct {
		name   string
		data   string
		mode   os.FileMode
		change func(*jwks.Config)
		ready  bool
	}{
		{"good", string(good), 0o600, nil, true},
		{"readable by others", string(good), 0o644, nil, true}, // It is public.
		{"writable by group", string(good), 0o620, nil, false},
		{"writable by others", string(good), 0o602, nil, false},
		{"empty", "", 0o600, nil, false},
		{"cut off", string(good[:len(good)/2]), 0o600, nil, false},
		{"another version", strings.Replace(string(good), `"version":1`, `"version":2`, 1), 0o600, nil, false},
		{"another URL", string(good), 0o600, func(c *jwks.Config) { c.URL = "https://other.example/jwks.json" }, false},
		{"from the future", string(good), 0o600, func(c *jwks.Config) { c.Now = func() time.Time { return now.Add(-time.Hour) } }, false},
		{"a private key", strings.Replace(string(good), `"kid":"ec-1"`, `"kid":"ec-1","d":"`+secret+`"`, 1), 0o600, nil, false},
		{"a long ETag", strings.Replace(string(good), `"document"`, `"etag":"`+strings.Repeat("x", 300)+`","document"`, 1), 0o600, nil, false},
		{"huge", string(good) + strings.Repeat(" ", 1<<20), 0o600, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			r := newRemote(t, &issuer{answer: down}, func(c *jwks.Config) {
				withSnapshot(c)
				c.Log, c.Now = slog.New(slog.NewJSONHandler(&log, nil)), func() time.Time { return now }
				if tt.change != nil {
					tt.change(c)
				}
			})
			if s := r.Status(now); s.Ready != tt.ready {
				t.Errorf("Status = %+v, want ready %v; log: %s", s, tt.ready, log.String())
			}
			if strings.Contains(log.String(), secret[:8]) || log.Len() == 0 {
				t.Errorf("log: %q", log.String())
			}
		})
	}
}

// A snapshot that can't be written costs nothing but a line in the log.
func TestRemoteWithoutSnapshotFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRemote(t, &issuer{answer: serving(documentOf(t, "ec"))}, func(c *jwks.Config) {
			c.Snapshot, c.Log = filepath.Join(t.TempDir(), "none", "keys.json"), slog.New(slog.NewJSONHandler(&log, nil))
		})
		stop := run(t, r)
		stop()
		if !r.Status(time.Now()).Ready || !strings.Contains(log.String(), "writing a key set snapshot") {
			t.Errorf("Status = %+v, log: %s", r.Status(time.Now()), log.String())
		}
	})
}

// Two issuers may use one kid; each store knows its own.
func TestRemoteKidsArePerIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs := parties()["ec2"]
		theirs.kid = "ec-1"
		r := newRemote(t, &issuer{answer: serving(documentOf(t, "ec"))}, nil)
		other := newRemote(t, &issuer{answer: serving(document(t, theirs.jwk(t)))}, nil)
		defer run(t, r)()
		defer run(t, other)()
		if _, err := other.Verify(theirs.good(t), time.Now()); err != nil {
			t.Errorf("Verify by its own issuer = %v", err)
		}
		if _, err := r.Verify(theirs.good(t), time.Now()); !errors.Is(err, token.ErrSignature) {
			t.Errorf("Verify by the other issuer = %v, want ErrSignature", err)
		}
	})
}

// The same over real sockets, with the redirect refused and bodies compressed
// by nobody.
func TestRemoteOverHTTP(t *testing.T) {
	doc := documentOf(t, "ec", "ed")
	mux := http.NewServeMux()
	mux.Handle("/jwks.json", jwks.Handler(func() []byte { return doc }, time.Minute, nil))
	mux.Handle("/moved", http.RedirectHandler("/jwks.json", http.StatusFound))
	server := httptest.NewServer(mux)
	defer server.Close()
	for path, want := range map[string]bool{"/jwks.json": true, "/moved": false} {
		for _, client := range []*http.Client{nil, server.Client()} {
			r, err := jwks.NewRemote(jwks.Config{URL: server.URL + path, Client: client, Profile: ours})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			for s := r.Status(time.Now()); s.Generation == 0 && s.LastError == ""; s = r.Status(time.Now()) {
				time.Sleep(time.Millisecond)
			}
			if _, err := r.Verify(parties()["ed"].good(t), time.Now()); (err == nil) != want {
				t.Errorf("%s: Verify = %v, want accepted %v; %+v", path, err, want, r.Status(time.Now()))
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run = %v", err)
			}
		}
	}
}

// Readers and the owner at once, for the race detector.
func TestRemoteReadersRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docs := [][]byte{documentOf(t, "ec"), documentOf(t, "ec", "ec2")}
		n := 0
		i := &issuer{}
		i.set(func(r *http.Request) (*http.Response, error) {
			n++
			if n%3 == 2 {
				return down(r)
			}
			return serving(docs[n%2])(r)
		})
		r := newRemote(t, i, func(c *jwks.Config) { c.Refresh, c.Cooldown = time.Second, time.Second })
		defer run(t, r)()
		good, sometimes := parties()["ec"].good(t), parties()["ec2"].good(t)
		var readers sync.WaitGroup
		for range 8 {
			readers.Go(func() {
				for range 50 {
					if _, err := r.Verify(good, time.Now()); err != nil {
						t.Errorf("Verify = %v", err)
					}
					_, _ = r.Verify(sometimes, time.Now())
					_, _ = r.Generation(time.Now())
					_ = r.Status(time.Now())
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		readers.Wait()
	})
}
