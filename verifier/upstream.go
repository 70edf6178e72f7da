package verifier

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/internal/token"
)

// Upstream is one model server, or what stands before several. Name, URL and
// Models are required.
type Upstream struct {
	// Name stands in logs and records.
	Name string

	// URL is what the paths of routes, /v1/…, are appended to: http or https,
	// without them.
	URL string

	// Models are served here: exact names, patterns of the scope grammar, or "*"
	// for all. Of several upstreams that fit, the one with the exact name has the
	// call, otherwise the one with the longest pattern. Each may stand in one
	// upstream only.
	Models []string

	// Header and Credential are how the verifier shows itself to the upstream:
	// the header's name, Authorization unless said, and its whole value, such as
	// "Bearer sk-…". Empty: it shows nothing.
	Header     string
	Credential string

	// ResponseTimeout bounds the wait for the head of an answer. Servers that
	// don't stream send it after the last word, so it must be long. Zero means
	// 10 minutes.
	ResponseTimeout time.Duration

	// IdleTimeout bounds the wait for the next bytes of an answer, and the wait
	// for the client to take them. There is no bound on the whole. Zero means 5
	// minutes.
	IdleTimeout time.Duration

	// Transport sends requests. Nil means one of our own, without a proxy from
	// the environment, as the credential would pass through it.
	Transport http.RoundTripper
}

type upstream struct {
	Upstream
	base  *url.URL
	proxy *httputil.ReverseProxy
}

type upstreams struct {
	all      []*upstream
	exact    map[string]*upstream
	patterns []pattern // The longest first.
}

type pattern struct {
	text string
	to   *upstream
}

func newUpstreams(list []Upstream) (upstreams, error) {
	set := upstreams{exact: map[string]*upstream{}}
	var errs []error
	names := map[string]bool{}
	for _, u := range list {
		one, err := newUpstream(u)
		if err != nil {
			errs = append(errs, fmt.Errorf("upstream %q: %w", u.Name, err))
			continue
		}
		if names[u.Name] {
			errs = append(errs, fmt.Errorf("upstream %q: its name stands twice", u.Name))
		}
		names[u.Name] = true
		set.all = append(set.all, one)
		for _, m := range u.Models {
			if err := set.add(m, one); err != nil {
				errs = append(errs, fmt.Errorf("upstream %q: %w", u.Name, err))
			}
		}
	}
	slices.SortStableFunc(set.patterns, func(a, b pattern) int { return len(b.text) - len(a.text) })
	return set, errors.Join(errs...)
}

func (s *upstreams) add(model string, to *upstream) error {
	taken := s.exact[model] != nil || slices.ContainsFunc(s.patterns, func(p pattern) bool { return p.text == model })
	_, err := token.ParseScope("chat:" + model)
	switch {
	case taken:
		return fmt.Errorf("model %q has an upstream already", model)
	case model == everyModel || err == nil && strings.HasSuffix(model, "*"):
		s.patterns = append(s.patterns, pattern{model, to})
	case err == nil:
		s.exact[model] = to
	default:
		return fmt.Errorf("model %q is neither a name, nor a pattern, nor %q", model, everyModel)
	}
	return nil
}

const everyModel = "*"

// serving returns the upstream of a model, or nil. Two patterns stand one within
// the other or share nothing, so the longest that fits is the closest.
func (s *upstreams) serving(model string) *upstream {
	if u := s.exact[model]; u != nil {
		return u
	}
	for _, p := range s.patterns {
		if p.text == everyModel || token.MatchModel(p.text, model) {
			return p.to
		}
	}
	return nil
}

func newUpstream(u Upstream) (*upstream, error) {
	var errs []error
	want := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New(problem))
		}
	}
	base, err := url.Parse(strings.TrimSuffix(u.URL, "/"))
	want(err == nil && (base.Scheme == "http" || base.Scheme == "https") && base.Hostname() != "" && base.User == nil &&
		base.RawQuery == "" && base.Fragment == "", "its URL is not an http or https URL without user, query and fragment")
	if err == nil {
		_, _, err := reqtarget.Split("/" + strings.TrimPrefix(base.EscapedPath(), "/"))
		want(err == nil, "its URL's path is not canonical")
		want(!strings.HasSuffix(base.Path, "/v1"), "its URL ends in /v1, which is appended to it")
	}
	if u.Header == "" {
		u.Header = "Authorization"
	}
	want(u.Name != "", "it has no name")
	want(len(u.Models) > 0, "it has no models")
	want(isHeaderName(u.Header) && !slices.Contains(ours, http.CanonicalHeaderKey(u.Header)), "its credential's header cannot be used for that")
	want(strings.IndexFunc(u.Credential, func(r rune) bool { return r < ' ' || r > '~' }) < 0, "its credential is not printable ASCII")
	want(u.ResponseTimeout >= 0 && u.IdleTimeout >= 0, "a timeout is negative")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	orDefault(&u.ResponseTimeout, defaultResponseTimeout)
	orDefault(&u.IdleTimeout, defaultIdleTimeout)
	if u.Transport == nil {
		u.Transport = newTransport()
	}
	return &upstream{Upstream: u, base: base}, nil
}

// ours are headers that we or net/http set ourselves, give a meaning to, or take
// away: a credential in one of the last would silently not be sent.
var ours = []string{
	"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade",
	"Accept", "Accept-Encoding", "Expect", "User-Agent", requestID,
	"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

func isHeaderName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-'
	}) < 0
}

// newTransport has a pool as large as a busy verifier needs: with the two idle
// connections of net/http, every second call would open one.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    512,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},

		// An answer is passed on as it comes and may be read on its way: nobody
		// asks for compression, neither we nor the client.
		DisableCompression: true,
	}
}
