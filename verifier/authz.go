package verifier

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/hourpass/hourpass/internal/clientip"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// Authz decides about calls that somebody else forwards, to the upstream of that
// name. A request stands for the call: its method, target, headers and, unless
// Body is nil, its body. The answer to one that may be forwarded is 200, with the
// headers of [IdentityHeaders] about who calls; any other is the answer for the
// client.
//
// As the body is forwarded as it is, not as we would write it, it must be in the
// form that we would give it. A call whose body is not seen passes only if the
// token covers every model of the upstream and bounds no parameter: nothing that
// stands in it could make a difference.
func (v *Verifier) Authz(upstreamName string) (http.Handler, error) {
	i := slices.IndexFunc(v.upstreams.All, func(s *upstream.Server) bool { return s.Name == upstreamName })
	if i < 0 {
		return nil, fmt.Errorf("configuring the verifier: there is no upstream %q to decide for", upstreamName)
	}
	to := v.upstreams.All[i]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.serve(w, r, func(w *answer, r *http.Request, c *call) error { return v.decideFor(to, w, r, c) }, permit)
	}), nil
}

// decideFor decides about a call that is forwarded to an upstream by others.
func (v *Verifier) decideFor(to *upstream.Server, w *answer, r *http.Request, c *call) error {
	c.record.Upstream, c.elsewhere = to.Name, true
	seen := r.Body != nil
	if !seen {
		return v.decideUnseen(to, r, c)
	}
	var came bytes.Buffer
	if r.Body != http.NoBody {
		r.Body = io.NopCloser(io.TeeReader(r.Body, &came))
	}
	if err := v.decide(w, r, c); err != nil {
		return err
	}
	switch {
	case c.route.Socket:
		return refusal.ErrUpgrade // Its frames would pass unjudged.
	case c.route.List != nil:
		return coversAll(to, c) // The list is the upstream's own.
	case c.upstream != to || !to.Serves(c.route.Route):
		return refusal.ErrNotServed
	case c.route.Members == nil:
		return nil
	case c.model != c.named || r.Header["Content-Encoding"] != nil || !c.bodyIs(came.Bytes()):
		return refusal.ErrNotCanonical
	}
	return nil
}

// bodyIs tells whether what we would forward are just those bytes.
func (c *call) bodyIs(came []byte) bool {
	if c.route.TakesForm() {
		return false // Ours has a boundary that nobody could know.
	}
	in := c.body.Open()
	defer func() { _ = in.Close() }()
	ours, err := io.ReadAll(in)
	return err == nil && bytes.Equal(ours, came)
}

func (v *Verifier) decideUnseen(to *upstream.Server, r *http.Request, c *call) error {
	if err := v.admit(r, c); err != nil {
		return err
	}
	switch {
	case c.route.Socket:
		return refusal.ErrUpgrade // Its frames would pass unjudged.
	case c.route.List == nil && !to.Serves(c.route.Route):
		return refusal.ErrNotServed
	}
	inBody := c.route.Carrier == route.InBody || c.route.Carrier == route.InForm
	if c.route.Members != nil || c.route.List != nil {
		if err := coversAll(to, c); err != nil {
			return err
		}
	}
	switch {
	case c.route.Members != nil && !c.claims.Params.IsZero():
		return refusal.ErrUnseenParam
	case inBody || c.route.List != nil:
		return v.takesMore(c)
	}
	if err := v.findModel(c); err != nil {
		return err
	}
	if c.upstream != to || c.named != "" && c.model != c.named {
		return refusal.ErrNotServed
	}
	if err := c.checkScope(); err != nil {
		return err
	}
	return v.takesMore(c)
}

// takesMore tells whether one more call can be let pass: is kept, and counted.
func (v *Verifier) takesMore(c *call) error {
	if err := v.records.takesMore(); err != nil {
		return err
	}
	return v.reserve(c)
}

// coversAll tells whether the token's scopes cover every model of the upstream.
func coversAll(to *upstream.Server, c *call) error {
	for _, model := range to.Models {
		scope, err := token.ParseScope(c.route.Action + ":" + model)
		if err != nil || !(token.Scopes{scope}).Within(c.claims.Scope) { // "*" is no scope, and covered by none.
			return &refusal.Denial{Is: refusal.ErrUnseen, Detail: c.route.Action}
		}
	}
	return nil
}

// IdentityHeaders are what a proxy in front is told of who calls, to pass on. It
// must take away what a client sends under these names.
var IdentityHeaders = []string{"X-Hourpass-Key", "X-Hourpass-Subject", "X-Hourpass-Team", "X-Hourpass-Grant", "X-Hourpass-Tier"}

// permit answers that a call may be forwarded. Values are percent-encoded, so
// that none can hold what has a meaning in a header.
func permit(w *answer, _ *http.Request, c *call) error {
	h := w.Header()
	for i, value := range []string{c.claims.ClientID, c.claims.Subject, c.claims.Team, c.claims.Grant, c.claims.Tier} {
		h.Set(IdentityHeaders[i], url.PathEscape(value))
	}
	h.Set(requestID, c.record.Decision)
	h.Set("Cache-Control", "no-store")
	c.spending.sent = true // As far as is known here.
	c.tellLimits(h)
	w.WriteHeader(http.StatusOK)
	return nil
}

// ForwardAuth says how a proxy in front asks about each request before it
// forwards it: nginx (auth_request), Traefik (ForwardAuth), Caddy (forward_auth).
type ForwardAuth struct {
	// Upstream is the name of the upstream that the proxy forwards to.
	Upstream string

	// Trusted are the networks that the proxy asks from. Others are refused,
	// because who asks says what the request is. Required.
	Trusted []netip.Prefix

	// Headers are where the original method and request-target stand:
	// "original" for X-Original-Method and X-Original-URI, which nginx is told to
	// set, "forwarded" for X-Forwarded-Method and X-Forwarded-Uri, which Traefik
	// and Caddy set. Only these two are read, as a client may send the others.
	Headers string
}

// asked are the names of the headers by the words of [ForwardAuth].
var asked = map[string][2]string{
	"original":  {"X-Original-Method", "X-Original-Uri"},
	"forwarded": {"X-Forwarded-Method", "X-Forwarded-Uri"},
}

// ForwardAuth answers such questions at /authz. Bodies are not seen: see
// [Verifier.Authz].
func (v *Verifier) ForwardAuth(c ForwardAuth) (http.Handler, error) {
	authz, err := v.Authz(c.Upstream)
	if err != nil {
		return nil, err
	}
	names, ok := asked[c.Headers]
	if !ok || len(c.Trusted) == 0 {
		return nil, fmt.Errorf("configuring the verifier: forward-auth wants trusted networks, and headers original or forwarded")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		original, err := original(r, names, c.Trusted)
		if err != nil {
			v.serve(w, r, func(*answer, *http.Request, *call) error { return err }, permit)
			return
		}
		if c.Headers == "original" {
			w = nginxAnswer{w}
		}
		authz.ServeHTTP(w, original)
	}), nil
}

// nginxAnswer tells nginx what it understands: of an answer that is neither 2xx,
// 401 nor 403 it makes its own 500.
type nginxAnswer struct{ http.ResponseWriter }

func (n nginxAnswer) WriteHeader(status int) {
	if status >= 400 && status < 500 && status != http.StatusUnauthorized {
		status = http.StatusForbidden
	}
	n.ResponseWriter.WriteHeader(status)
}

// original is the request that a proxy in front asks about.
func original(r *http.Request, names [2]string, trusted []netip.Prefix) (*http.Request, error) {
	switch peer := clientip.From(&http.Request{RemoteAddr: r.RemoteAddr}, nil); {
	case !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(peer) }):
		return nil, refusal.ErrStranger
	case r.RequestURI != "/authz":
		return nil, refusal.ErrNotFound
	}
	method, uri := r.Header[names[0]], r.Header[names[1]]
	if len(method) != 1 || len(uri) != 1 {
		return nil, refusal.ErrTarget
	}
	path, query, _ := strings.Cut(uri[0], "?")
	o := r.Clone(r.Context())
	o.Method, o.RequestURI, o.URL = method[0], uri[0], &url.URL{Path: path, RawQuery: query}
	o.Body, o.ContentLength, o.TransferEncoding = nil, 0, nil
	// Without a word of the proxy's the client's address is not known, and in no
	// network.
	o.RemoteAddr = ""
	if client := clientip.From(r, trusted); client.IsValid() && r.Header["X-Forwarded-For"] != nil {
		o.RemoteAddr = netip.AddrPortFrom(client, 0).String()
	}
	o.Header.Del("X-Forwarded-For")
	return o, nil
}
