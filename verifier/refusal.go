package verifier

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/target"
	"github.com/hourpass/hourpass/internal/token"
)

// Reasons to refuse a call, besides those of package token. Each is a sentence
// that is safe to show.
var (
	errNoRoute   = errors.New("there is no such endpoint here")
	errQuery     = errors.New("this endpoint takes no query")
	errUpgrade   = errors.New("this endpoint does not switch protocols")
	errTooLarge  = errors.New("the body is too large")
	errMedia     = errors.New("the body must be application/json in UTF-8")
	errEncoding  = errors.New("the body must not be compressed")
	errScope     = errors.New("the token does not permit this")
	errNoModel   = errors.New("no upstream has this model")
	errInternal  = errors.New("something went wrong on our side")
	errAway      = errors.New("the model server can not be reached")
	errSlow      = errors.New("the model server did not answer in time")
	errDied      = errors.New("the model server broke off its answer")
	errUpstream  = errors.New("the model server refuses to work for us")
	errRedirect  = errors.New("the model server answered with a redirect")
	errGone      = errors.New("the client has gone")
	errBadAnswer = errors.New("the model server answered with something else")
)

// statusGone is what a call is recorded with when nobody waited for its answer.
const statusGone = 499

// methodError is a method that a known path does not take.
type methodError struct{ allow string }

func (e *methodError) Error() string { return "this endpoint takes another method: " + e.allow }

// refusals says for each reason how the call is answered and what the audit
// calls it. The first that matches counts.
var refusals = []struct {
	err    error
	status int
	kind   string // The "type" of an OpenAI error.
	code   string // Its "code", and the reason in the audit.
}{
	{token.ErrMissing, http.StatusUnauthorized, "authentication_error", "missing_token"},
	{errCredentials, http.StatusUnauthorized, "authentication_error", "several_credentials"},
	{token.ErrExpired, http.StatusUnauthorized, "authentication_error", "token_expired"},
	{token.ErrMalformed, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrTooLong, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrAlgorithm, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrType, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrUnknownKey, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrSignature, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrClaims, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrIssuer, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrAudience, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrNotYet, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrLifetime, http.StatusUnauthorized, "authentication_error", "invalid_token"},
	{token.ErrKeysStale, http.StatusServiceUnavailable, "server_error", "keys_stale"},
	{errAudit, http.StatusServiceUnavailable, "server_error", "audit_unavailable"},
	{errIP, http.StatusForbidden, "permission_error", "ip_not_allowed"},
	{errScope, http.StatusForbidden, "permission_error", "insufficient_scope"},
	{target.ErrNotCanonical, http.StatusBadRequest, "invalid_request_error", "invalid_target"},
	{errNoRoute, http.StatusNotFound, "invalid_request_error", "unknown_url"},
	{errQuery, http.StatusBadRequest, "invalid_request_error", "invalid_query"},
	{errUpgrade, http.StatusBadRequest, "invalid_request_error", "invalid_upgrade"},
	{errTooLarge, http.StatusRequestEntityTooLarge, "invalid_request_error", "body_too_large"},
	{errMedia, http.StatusUnsupportedMediaType, "invalid_request_error", "unsupported_media_type"},
	{errEncoding, http.StatusUnsupportedMediaType, "invalid_request_error", "unsupported_encoding"},
	{errNoModel, http.StatusNotFound, "invalid_request_error", "model_not_found"},
	{errGone, statusGone, "invalid_request_error", "client_gone"},
	{errAway, http.StatusBadGateway, "server_error", "upstream_unreachable"},
	{errSlow, http.StatusGatewayTimeout, "server_error", "upstream_timeout"},
	{errDied, http.StatusBadGateway, "server_error", "upstream_died"},
	{errUpstream, http.StatusBadGateway, "server_error", "upstream_refused"},
	{errRedirect, http.StatusBadGateway, "server_error", "upstream_redirect"},
	{errBadAnswer, http.StatusBadGateway, "server_error", "upstream_invalid"},
}

// refusal is how one refused call is answered.
type refusal struct {
	status        int
	kind, code    string
	message       string
	err           error
	wantsScope    string // The scope that would have permitted it.
	allow         string // Of a wrong method.
	mayTryAgainIn time.Duration
}

// newRefusal looks err up. What is on no list is our own fault.
func newRefusal(c *call, err error) refusal {
	var body *bodyError
	var method *methodError
	ref := refusal{status: http.StatusInternalServerError, kind: "server_error", code: "error", message: sentence(errInternal), err: err}
	switch {
	case errors.As(err, &body):
		ref.status, ref.kind, ref.code, ref.message = http.StatusBadRequest, "invalid_request_error", "invalid_body", sentence(body)
	case errors.As(err, &method):
		ref.status, ref.kind, ref.code, ref.message = http.StatusMethodNotAllowed, "invalid_request_error", "method_not_allowed", sentence(method)
		ref.allow = method.allow
	default:
		for _, r := range refusals {
			if errors.Is(err, r.err) {
				ref.status, ref.kind, ref.code, ref.message = r.status, r.kind, r.code, sentence(r.err)
				break
			}
		}
	}
	if errors.Is(err, errScope) {
		ref.wantsScope = c.route.action + ":" + c.model
		ref.message = fmt.Sprintf("The token does not permit %s: its scope is %s.", ref.wantsScope, c.claims.Scope)
	}
	if ref.status == http.StatusServiceUnavailable {
		ref.mayTryAgainIn = 5 * time.Second
	}
	return ref
}

// sentence makes an error's text one: it begins with a capital and ends with a
// full stop.
func sentence(err error) string {
	text := err.Error()
	return string(text[0]&^0x20) + text[1:] + "."
}

// openAIError is the body of an error in the dialect of the OpenAI API.
func (ref refusal) openAIError(decision string) []byte {
	b, err := json.Marshal(map[string]any{"error": map[string]any{
		"message": ref.message, "type": ref.kind, "code": ref.code, "param": nil, "decision_id": decision,
	}})
	if err != nil {
		panic(err) // Unreachable: texts always marshal.
	}
	return b
}

// refuse answers a call that is not let through, or whose upstream failed before
// it answered.
func (v *Verifier) refuse(w *answer, c *call, err error) {
	ref := newRefusal(c, err)
	c.rec.Reason, c.rec.Detail = ref.code, err.Error()
	if c.rec.Outcome == "" {
		c.rec.Outcome = audit.Deny
	}
	if ref.status >= http.StatusInternalServerError {
		v.Log.Warn("a call failed", "decision", c.rec.Decision, "code", ref.code, "err", err.Error())
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Request-Id", c.rec.Decision)
	if challenge := ref.challenge(); challenge != "" {
		h.Set("WWW-Authenticate", challenge)
	}
	if ref.allow != "" {
		h.Set("Allow", ref.allow)
	}
	if ref.mayTryAgainIn > 0 {
		h.Set("Retry-After", strconv.Itoa(int(ref.mayTryAgainIn/time.Second)))
	}
	if errors.Is(err, token.ErrExpired) {
		h.Set("X-Should-Retry", "true") // The SDKs' own sign: with a fresh token it would work.
	}
	w.WriteHeader(ref.status)
	_, _ = w.Write(append(ref.openAIError(c.rec.Decision), '\n')) // The client may have gone.
}

// challenge is the WWW-Authenticate of RFC 6750, section 3. A request without a
// token learns nothing but that one is wanted.
func (ref refusal) challenge() string {
	switch {
	case errors.Is(ref.err, token.ErrMissing):
		return `Bearer`
	case ref.status == http.StatusUnauthorized:
		return fmt.Sprintf(`Bearer error="invalid_token", error_description=%q`, ref.message)
	case ref.wantsScope != "":
		return fmt.Sprintf(`Bearer error="insufficient_scope", scope=%q`, ref.wantsScope)
	}
	return ""
}
