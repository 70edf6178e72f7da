package verifier

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/hourpass/hourpass/internal/token"
)

// The verifier's own reasons to refuse a call, beside those of internal/token.
var (
	errTarget          = errors.New("the request target is not canonical")
	errMethod          = errors.New("the method is not served here")
	errScheme          = errors.New("the Authorization scheme is not Bearer")
	errAmbiguous       = errors.New("the request carries two different credentials")
	errClientIP        = errors.New("the client's address is outside the token's networks")
	errLimits          = errors.New("the token carries limits that this verifier does not enforce")
	errNotFound        = errors.New("no route has that path")
	errQuery           = errors.New("the route takes no query")
	errUpgrade         = errors.New("the request asks for another protocol")
	errContentType     = errors.New("the body is not declared as JSON in UTF-8")
	errContentEncoding = errors.New("the body is encoded")
	errUnwanted        = errors.New("the request has a body that means nothing")
	errTooLarge        = errors.New("the body is too large")
	errBodySlow        = errors.New("the body took too long to arrive")
	errBodyRead        = errors.New("the body could not be read")
	errBody            = errors.New("the body is not strict JSON")
	errMember          = errors.New("a member of the body is refused")
	errMemberName      = errors.New("a member's name could pass for another")
	errNoModel         = errors.New("the body names no model")
	errModelName       = errors.New("no scope can cover the model's name")
	errScope           = errors.New("the token has no scope for the call")
	errNoUpstream      = errors.New("no model server serves the model")
	errUpstream        = errors.New("the model server could not be used")
	errUpstreamSlow    = errors.New("the model server took too long to answer")
	errUpstreamDied    = errors.New("the model server broke off its answer")
	errUpstreamIdle    = errors.New("the model server stopped within its answer")
	errClientGone      = errors.New("the client left before the end of the answer")
	errClientSlow      = errors.New("the client stopped reading the answer")
	errAborted         = errors.New("the call was given up")
	errAudit           = errors.New("the audit cannot be kept")
	errInternal        = errors.New("internal error")
)

// A refusal is what becomes of a reason: the one place that chooses statuses,
// codes and sentences. Challenge is the "error" of WWW-Authenticate (RFC 6750,
// section 3.1); "none" challenges without one.
type refusal struct {
	err       error
	status    int
	code      string // For the client's program.
	reason    string // For the audit: a closed list.
	challenge string
	sentence  string // For the client's developer. Nothing that the client sent.
}

const (
	invalidToken      = "invalid_token"
	insufficientScope = "insufficient_scope"
	noError           = "none"
)

var refusals = []refusal{
	{errTarget, 400, "invalid_target", "target", "", "The request target is not in canonical form."},
	{errMethod, 405, "method_not_allowed", "method", "", "That method is not served here."},

	{token.ErrMissing, 401, "missing_token", "missing", noError, "Send a token as \"Authorization: Bearer …\"."},
	{errScheme, 401, "missing_token", "scheme", noError, "Send a token as \"Authorization: Bearer …\"; no other scheme is taken."},
	{errAmbiguous, 401, invalidToken, "ambiguous", invalidToken, "The request carries two different credentials."},
	{token.ErrTooLong, 401, invalidToken, "size", invalidToken, "The token is too long to be one of ours."},
	{token.ErrMalformed, 401, invalidToken, "malformed", invalidToken, "The credential is not one of our tokens. A machine key must be exchanged for one."},
	{token.ErrAlgorithm, 401, invalidToken, "alg", invalidToken, "The token uses an algorithm that is not accepted."},
	{token.ErrType, 401, invalidToken, "typ", invalidToken, "The token is of another type. An identity token must be exchanged for one of ours."},
	{token.ErrUnknownKey, 401, invalidToken, "kid_unknown", invalidToken, "The token is signed by a key that is not known."},
	{token.ErrSignature, 401, invalidToken, "signature", invalidToken, "The token's signature does not verify."},
	{token.ErrClaims, 401, invalidToken, "claims", invalidToken, "The token's claims break its profile."},
	{token.ErrLifetime, 401, invalidToken, "lifetime", invalidToken, "The token lives longer than an hour."},
	{token.ErrIssuer, 401, invalidToken, "iss", invalidToken, "The token is from another issuer."},
	{token.ErrAudience, 401, invalidToken, "aud", invalidToken, "The token is for another audience."},
	{token.ErrNotYet, 401, invalidToken, "not_yet", invalidToken, "The token is not valid yet."},
	{token.ErrExpired, 401, "token_expired", "expired", invalidToken, "The token has expired. Get a fresh one."},
	{token.ErrRevoked, 401, invalidToken, "revoked", invalidToken, "The token was revoked. Get a fresh one."},
	{token.ErrRevocationsStale, 503, "revocations_stale", "revocations_stale", "", "Tokens cannot be judged at the moment."},
	{token.ErrKeysStale, 503, "keys_stale", "keys_stale", "", "Tokens cannot be verified at the moment."},

	{errClientIP, 403, "address_not_allowed", "ip", "", "The token may not be used from this address."},
	{errLimits, 403, "limits_not_enforced", "limits", "", "The token carries limits that this verifier does not enforce."},
	{errNotFound, 404, "not_found", "endpoint", "", "There is no such endpoint."},
	{errQuery, 400, "invalid_request", "query", "", "This endpoint takes no query."},
	{errUpgrade, 400, "invalid_request", "upgrade", "", "This endpoint does not change protocols."},
	{errContentType, 415, "unsupported_media_type", "content_type", "", "Send the body as application/json, in UTF-8."},
	{errContentEncoding, 415, "unsupported_media_type", "content_encoding", "", "Send the body without a content encoding."},
	{errUnwanted, 400, "invalid_request", "body_unwanted", "", "This endpoint takes no body."},
	{errTooLarge, 413, "body_too_large", "body_size", "", "The body is too large."},
	{errBodySlow, 408, "body_timeout", "body_slow", "", "The body took too long to arrive."},
	{errBodyRead, 400, "invalid_body", "body_read", "", "The body could not be read."},
	{errBody, 400, "invalid_body", "body", "", "The body is not one strict JSON object"},
	{errMember, 400, "invalid_parameter", "member", "", "The member"},
	{errMemberName, 400, "invalid_parameter", "member_name", "", "The body has a member whose name some model servers take for another: write names exactly as documented."},
	{errNoModel, 400, "missing_model", "no_model", "", "The body must name a model."},

	{errModelName, 403, insufficientScope, "model_name", insufficientScope, "No token can cover that model's name."},
	{errScope, 403, insufficientScope, "scope", insufficientScope, "The token lacks the scope"},
	{errNoUpstream, 404, "model_not_found", "model", "", "No model server here serves that model."},
	{errUpstream, 502, "upstream_error", "upstream", "", "The model server could not be used."},
	{errUpstreamSlow, 504, "upstream_timeout", "upstream_slow", "", "The model server took too long to answer."},
	{errUpstreamDied, 502, "upstream_error", "upstream_died", "", "The model server broke off its answer."},
	{errUpstreamIdle, 504, "upstream_timeout", "upstream_idle", "", "The model server stopped within its answer."},
	{errClientGone, statusClientGone, "client_gone", "client_gone", "", "The client left."},
	{errClientSlow, statusClientGone, "client_slow", "client_slow", "", "The client stopped reading."},
	{errAborted, statusClientGone, "aborted", "aborted", "", "The call was given up."},
	{errAudit, 503, "audit_unavailable", "audit", "", "Calls cannot be written down at the moment, so none is let through."},
	{errInternal, 500, "internal_error", "internal", "", "Something went wrong on our side."},
}

// A denial is a reason with what this one case adds to it.
type denial struct {
	is     error
	detail string // Ends the sentence. Safe to show: our words, or a model's valid name.
	cause  error  // For the operator.
	scope  string // The one that is missing.
	allow  string // The methods that would do.
}

func (d *denial) Error() string {
	if d.cause == nil {
		return d.is.Error()
	}
	return d.is.Error() + ": " + d.cause.Error()
}

func (d *denial) Unwrap() error { return d.is }

// lookUp returns what becomes of err. What is not on the list is our failure: a
// verifier that can't decide must not let through, nor blame the client.
func lookUp(err error) (refusal, *denial) {
	d := &denial{}
	if !errors.As(err, &d) {
		d = &denial{is: err}
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return r, d
		}
	}
	return refusals[len(refusals)-1], d
}

// message is the sentence for the client, with what this case adds.
func (r *refusal) message(d *denial) string {
	switch {
	case d.detail == "":
		return r.sentence
	case r.err == errBody: //nolint:errorlint // The row itself, not a chain.
		return r.sentence + ": " + d.detail + "."
	}
	return r.sentence + " " + d.detail + "."
}

// retryAfter is how long a client had best wait while we can't decide.
const retryAfter = "5"

// refuse answers with err, in the dialect of the route, and notes it.
func (v *Verifier) refuse(w *answer, c *call, err error) {
	r, d := lookUp(err)
	c.note(err)
	if r.status >= http.StatusInternalServerError {
		v.c.Log.LogAttrs(c.client, slog.LevelWarn, "a call failed", slog.String("decision", c.record.Decision),
			slog.String("route", c.record.Route), slog.String("upstream", c.record.Upstream), slog.String("err", err.Error()))
	}
	if r.status == statusClientGone || w.status != 0 {
		return // Nobody listens, or the answer has begun.
	}
	message := r.message(d)
	body := c.family().refusal(r.status, r.code, message, c.record.Decision)
	h := w.Header()
	clear(h) // Of what an upstream or a handler in this process had begun to say.
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(requestID, c.record.Decision)
	if r.challenge != "" {
		h.Set("WWW-Authenticate", r.authenticate(d, message))
	}
	if d.allow != "" {
		h.Set("Allow", d.allow)
	}
	switch {
	case r.status == http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	case r.err == token.ErrExpired: //nolint:errorlint // The row itself, not a chain.
		// The SDKs send the call once more then, with what may be a fresh token.
		h.Set("X-Should-Retry", "true")
	}
	if r.err == errTarget || !v.drained(w, c.unread) { //nolint:errorlint // The row itself, not a chain.
		w.last = true // What follows on it can't be trusted to be a request.
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(body) // The client may have gone; nothing is left to do.
}

// authenticate is the challenge (RFC 6750, section 3).
func (r *refusal) authenticate(d *denial, message string) string {
	if r.challenge == noError {
		return "Bearer"
	}
	// A quoted string of ASCII: the sentences have quotes and dashes in places.
	description := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return -1
		}
		return c
	}, message)
	challenge := `Bearer error="` + r.challenge + `", error_description="` + description + `"`
	if d.scope != "" {
		challenge += `, scope="` + d.scope + `"`
	}
	return challenge
}

// note writes down why a call did not end well. The first reason stands: later
// ones follow from it.
func (c *call) note(err error) {
	if c.record.Reason == "" {
		r, _ := lookUp(err)
		c.record.Reason = r.reason
	}
}

func (c *call) family() *family {
	if c.route != nil {
		return c.route.family
	}
	return families[0]
}
