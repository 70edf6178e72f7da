package jwks_test

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/jwks"
)

func TestHandler(t *testing.T) {
	doc := documentOf(t, "ec")
	h := jwks.Handler(func() []byte { return doc }, 5*time.Minute, func() float64 { return 0 })
	ask := func(method string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/jwks.json", nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}

	w := ask(http.MethodGet)
	if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), doc) {
		t.Fatalf("GET = %d %s", w.Code, w.Body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/jwk-set+json", "Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("GET: %s = %q, want %q", name, got, want)
		}
	}
	etag := w.Header().Get("ETag")
	if len(etag) < 20 || etag[0] != '"' {
		t.Errorf("GET: ETag = %q, want a strong one", etag)
	}
	if w := ask(http.MethodHead); w.Code != http.StatusOK || w.Body.Len() != 0 || w.Header().Get("ETag") != etag || w.Header().Get("Content-Length") == "0" {
		t.Errorf("HEAD = %d, %d bytes, %v", w.Code, w.Body.Len(), w.Header())
	}
	for _, match := range []string{etag, `"x", ` + etag, "W/" + etag, "*"} {
		w := ask(http.MethodGet, "If-None-Match", match)
		if w.Code != http.StatusNotModified || w.Body.Len() != 0 || w.Header().Get("Cache-Control") == "" {
			t.Errorf("GET If-None-Match %s = %d, %d bytes", match, w.Code, w.Body.Len())
		}
	}
	if w := ask(http.MethodGet, "If-None-Match", `"x"`); w.Code != http.StatusOK {
		t.Errorf("GET If-None-Match another = %d, want 200", w.Code)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "get"} {
		if w := ask(method); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s = %d, Allow %q", method, w.Code, w.Header().Get("Allow"))
		}
	}

	doc = documentOf(t, "ec", "ec2") // Rotated.
	if w := ask(http.MethodGet, "If-None-Match", etag); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), doc) {
		t.Errorf("GET after rotation = %d %s", w.Code, w.Body)
	}
	if again := ask(http.MethodGet).Header().Get("ETag"); again == etag {
		t.Errorf("ETag = %s after rotation too", again)
	}
}

// Caches that were filled together do not come back together.
func TestHandlerSpreadsCaches(t *testing.T) {
	doc := documentOf(t, "ec")
	var chance float64
	random := func() float64 { return chance }
	maxAge := func(h http.Handler) (seconds int, etag string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/jwks.json", nil))
		if _, err := fmt.Sscanf(w.Header().Get("Cache-Control"), "public, max-age=%d", &seconds); err != nil {
			t.Errorf("Cache-Control = %q", w.Header().Get("Cache-Control"))
		}
		return seconds, w.Header().Get("ETag")
	}
	h := jwks.Handler(func() []byte { return doc }, 5*time.Minute, random)
	_, etag := maxAge(h)
	for _, tt := range []struct {
		chance float64
		want   int
	}{{0, 300}, {0.5, 262}, {math.Nextafter(1, 0), 225}} {
		chance = tt.chance
		if got, e := maxAge(h); got != tt.want || e != etag {
			t.Errorf("max-age for %v = %d, want %d; ETag %s, want %s", chance, got, tt.want, e, etag)
		}
	}
	for _, age := range []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second} {
		if got, _ := maxAge(jwks.Handler(func() []byte { return doc }, age, random)); float64(got) < 0.75*age.Seconds() || float64(got) > age.Seconds() {
			t.Errorf("max-age of %s = %d", age, got)
		}
	}
	seen := map[int]bool{}
	for h := jwks.Handler(func() []byte { return doc }, 5*time.Minute, nil); len(seen) < 10; {
		seconds, _ := maxAge(h)
		if seen[seconds] = true; seconds < 225 || seconds > 300 {
			t.Fatalf("max-age = %d", seconds)
		}
	}
}

// Whatever goes wrong behind it, a private key is not published.
func TestHandlerRefusesToPublish(t *testing.T) {
	private := parties()["ec"].jwk(t)
	private["d"] = secret
	for name, doc := range map[string][]byte{"private": document(t, private), "nothing": nil, "no keys": []byte(`{"keys":[]}`)} {
		w := httptest.NewRecorder()
		jwks.Handler(func() []byte { return doc }, time.Minute, nil).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/jwks.json", nil))
		if w.Code != http.StatusInternalServerError || w.Header().Get("Cache-Control") != "no-store" || strings.Contains(w.Body.String(), secret[:8]) {
			t.Errorf("GET(%s) = %d %v %s, want 500, not stored, without the key", name, w.Code, w.Header(), w.Body)
		}
	}
}
