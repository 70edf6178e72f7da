// Package refusal holds why a call is not let through, or did not end well, and
// what becomes of it: the one place that chooses statuses, codes and sentences.
// It refuses to know how a reason was found, and in which dialect it is told.
package refusal

import (
	"errors"

	"github.com/hourpass/hourpass/internal/token"
)

// The verifier's own reasons to refuse a call, beside those of internal/token.
var (
	ErrTarget          = errors.New("the request target is not canonical")
	ErrMethod          = errors.New("the method is not served here")
	ErrScheme          = errors.New("the Authorization scheme is not Bearer")
	ErrAmbiguous       = errors.New("the request carries two different credentials")
	ErrClientIP        = errors.New("the client's address is outside the token's networks")
	ErrLimits          = errors.New("the token carries limits that this verifier does not enforce")
	ErrParam           = errors.New("a parameter is outside the token's bounds")
	ErrNotFound        = errors.New("no route has that path")
	ErrQuery           = errors.New("the route takes no query")
	ErrUpgrade         = errors.New("the request asks for another protocol")
	ErrOrigin          = errors.New("a page of another host asks")
	ErrDraining        = errors.New("the verifier is being stopped")
	ErrContentType     = errors.New("the body is not declared as JSON in UTF-8")
	ErrContentEncoding = errors.New("the body has an encoding that is not decoded")
	ErrUnwanted        = errors.New("the request has a body that means nothing")
	ErrTooLarge        = errors.New("the body is too large")
	ErrBodySlow        = errors.New("the body took too long to arrive")
	ErrBodyRead        = errors.New("the body could not be read")
	ErrBody            = errors.New("the body is not strict JSON")
	ErrFormType        = errors.New("the body is not declared as a form in UTF-8")
	ErrForm            = errors.New("the body is not strict multipart/form-data")
	ErrDecoding        = errors.New("the body does not decode")
	ErrNoRoom          = errors.New("the bodies of other calls take all the room there is")
	ErrMember          = errors.New("a member of the body is refused")
	ErrMemberName      = errors.New("a member's name could pass for another")
	ErrTwoModels       = errors.New("the path and the body name two models")
	ErrNoModel         = errors.New("the body names no model")
	ErrModelName       = errors.New("no scope can cover the model's name")
	ErrScope           = errors.New("the token has no scope for the call")
	ErrUnseen          = errors.New("the body is not seen here, and the token does not cover every model")
	ErrUnseenParam     = errors.New("the body is not seen here, and the token bounds its parameters")
	ErrNotCanonical    = errors.New("the body would be forwarded otherwise than it was judged")
	ErrStranger        = errors.New("the question is from a network that is not trusted")
	ErrNotServed       = errors.New("the model's server does not have the route")
	ErrNoUpstream      = errors.New("no model server serves the model")
	ErrUpstream        = errors.New("the model server could not be used")
	ErrUpstreamSlow    = errors.New("the model server took too long to answer")
	ErrUpstreamDied    = errors.New("the model server broke off its answer")
	ErrUpstreamIdle    = errors.New("the model server stopped within its answer")
	ErrCutExpired      = errors.New("the token expired within the answer")
	ErrCutRevoked      = errors.New("the token was revoked within the answer")
	ErrTooOld          = errors.New("the answer took longer than any may")
	ErrClientGone      = errors.New("the client left before the end of the answer")
	ErrClientSlow      = errors.New("the client stopped reading the answer")
	ErrAborted         = errors.New("the call was given up")
	ErrRate            = errors.New("a rate of the token is reached")
	ErrBudget          = errors.New("a budget of the token is spent")
	ErrCutBudget       = errors.New("a budget of the token was spent within the answer")
	ErrLedger          = errors.New("the ledger of budgets can't be asked")
	ErrAudit           = errors.New("the audit cannot be kept")
	ErrInternal        = errors.New("internal error")
)

// A Refusal is what becomes of a reason. Challenge is the "error" of
// WWW-Authenticate (RFC 6750, section 3.1); "none" challenges without one.
type Refusal struct {
	Err       error
	Status    int
	Code      string // For the client's program.
	Reason    string // For the audit: a closed list.
	challenge string
	sentence  string // For the client's developer. Nothing that the client sent.
}

// ClientGone is the status that nginx writes down for a client that did not wait.
const ClientGone = 499

const (
	invalidToken      = "invalid_token"
	insufficientScope = "insufficient_scope"
	noError           = "none"
)

var refusals = []Refusal{
	{ErrTarget, 400, "invalid_target", "target", "", "The request target is not in canonical form."},
	{ErrMethod, 405, "method_not_allowed", "method", "", "That method is not served here."},

	{token.ErrMissing, 401, "missing_token", "missing", noError, "Send a token as \"Authorization: Bearer …\"."},
	{ErrScheme, 401, "missing_token", "scheme", noError, "Send a token as \"Authorization: Bearer …\"; no other scheme is taken."},
	{ErrAmbiguous, 401, invalidToken, "ambiguous", invalidToken, "The request carries two different credentials."},
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

	{ErrClientIP, 403, "address_not_allowed", "ip", "", "The token may not be used from this address."},
	{ErrLimits, 403, "limits_not_enforced", "limits", "", "The token carries limits that this verifier does not enforce."},
	{ErrNotFound, 404, "not_found", "endpoint", "", "There is no such endpoint."},
	{ErrQuery, 400, "invalid_request", "query", "", "This endpoint does not take that query."},
	{ErrOrigin, 403, "origin_not_allowed", "origin", "", "Pages of other hosts may not connect."},
	{ErrDraining, 503, "restarting", "draining", "", "The verifier is being restarted. Connect again."},
	{ErrUpgrade, 400, "invalid_request", "upgrade", "", "This endpoint and the protocol that was asked for do not go together."},
	{ErrContentType, 415, "unsupported_media_type", "content_type", "", "Send the body as application/json, in UTF-8."},
	{ErrContentEncoding, 415, "unsupported_media_type", "content_encoding", "", "Send the body with one content encoding of gzip, deflate, br and zstd, or without any."},
	{ErrUnwanted, 400, "invalid_request", "body_unwanted", "", "This endpoint takes no body."},
	{ErrTooLarge, 413, "body_too_large", "body_size", "", "The body is too large."},
	{ErrBodySlow, 408, "body_timeout", "body_slow", "", "The body took too long to arrive."},
	{ErrBodyRead, 400, "invalid_body", "body_read", "", "The body could not be read."},
	{ErrBody, 400, "invalid_body", "body", "", "The body is not one strict JSON object"},
	{ErrFormType, 415, "unsupported_media_type", "form_type", "", "Send the body as multipart/form-data, in UTF-8, with a boundary."},
	{ErrForm, 400, "invalid_body", "form", "", "The body is not strict multipart/form-data"},
	{ErrDecoding, 400, "invalid_body", "decoding", "", "The body does not decode by its Content-Encoding."},
	{ErrNoRoom, 503, "overloaded", "body_room", "", "There is no room for another large body at the moment."},
	{ErrMember, 400, "invalid_parameter", "member", "", "The member"},
	{ErrMemberName, 400, "invalid_parameter", "member_name", "", "The body has a member whose name some model servers take for another: write names exactly as documented."},
	{ErrTwoModels, 400, "invalid_parameter", "two_models", "", "The path and the body name two models."},
	{ErrNoModel, 400, "missing_model", "no_model", "", "The body must name a model."},

	{ErrModelName, 403, insufficientScope, "model_name", insufficientScope, "No token can cover that model's name."},
	{ErrParam, 403, "parameter_not_allowed", "param", "", "The token does not allow it:"},
	{ErrScope, 403, insufficientScope, "scope", insufficientScope, "The token lacks the scope"},
	{ErrNoUpstream, 404, "model_not_found", "model", "", "No model server here serves that model."},
	{ErrUnseen, 403, insufficientScope, "unseen_model", insufficientScope, "Bodies are not seen here, so the token must cover every model of the server for"},
	{ErrUnseenParam, 403, "parameter_not_allowed", "unseen_param", "", "Bodies are not seen here, and the token bounds their parameters."},
	{ErrNotCanonical, 400, "invalid_body", "not_canonical", "", "Send the body in canonical form: it is not written anew here."},
	{ErrStranger, 403, "not_trusted", "stranger", "", "Only the proxy in front may ask."},
	{ErrNotServed, 404, "not_found", "not_served", "", "The server of that model has no such endpoint."},
	{ErrUpstream, 502, "upstream_error", "upstream", "", "The model server could not be used."},
	{ErrUpstreamSlow, 504, "upstream_timeout", "upstream_slow", "", "The model server took too long to answer."},
	{ErrUpstreamDied, 502, "upstream_error", "upstream_died", "", "The model server broke off its answer."},
	{ErrUpstreamIdle, 504, "upstream_timeout", "upstream_idle", "", "The model server stopped within its answer."},
	{ErrCutExpired, 401, "token_expired", "cut_expired", invalidToken, "The token has expired within the answer. Get a fresh one."},
	{ErrCutRevoked, 401, invalidToken, "cut_revoked", invalidToken, "The token was revoked within the answer. Get a fresh one."},
	{ErrRate, 429, "rate_limited", "rate", "", "A limit of the token is reached:"},
	{ErrBudget, 402, "budget_spent", "budget", "", "A budget of the token is spent:"},
	{ErrCutBudget, 402, "budget_spent", "cut_budget", "", "The answer was ended, as a budget of the token is spent."},
	{ErrLedger, 503, "ledger_unavailable", "ledger", "", "What the token may still spend cannot be told at the moment."},
	{ErrTooOld, 504, "answer_too_long", "too_old", "", "The answer took longer than any may."},
	{ErrClientGone, ClientGone, "client_gone", "client_gone", "", "The client left."},
	{ErrClientSlow, ClientGone, "client_slow", "client_slow", "", "The client stopped reading."},
	{ErrAborted, ClientGone, "aborted", "aborted", "", "The call was given up."},
	{ErrAudit, 503, "audit_unavailable", "audit", "", "Calls cannot be written down at the moment, so none is let through."},
	{ErrInternal, 500, "internal_error", "internal", "", "Something went wrong on our side."},
}
