package issuer

import (
	"context"
	"errors"
	"net/http"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// Reasons that only this room knows. Each is fit to be shown.
var (
	errNoKey        = errors.New("the client must authenticate with its machine key")
	errGrant        = errors.New("this grant type is not supported")
	errTarget       = errors.New("the audience is not one of this issuer's")
	errReplay       = errors.New("this identity token was used before")
	errClientReplay = errors.New("this client assertion was used before")
	errCode         = errors.New("the authorization code is unknown, used or expired, or the proof does not match")
	errRefresh      = errors.New("the refresh token is unknown, used or expired: log in again")
	errSession      = errors.New("a fresh login is needed")
	errNoAudit      = errors.New("the decision could not be recorded")
	errStale        = errors.New("the login is too long ago for this: log in again")
	errRole         = errors.New("this is not yours to do")

	errOwnerGone    = errors.New("the machine key's owner has not logged in for too long")
	errSubjectToken = errors.New("the token to be narrowed is none of ours, or is over")
	errTooFast      = errors.New("too many requests: wait a little")

	errPending       = errors.New("the login was not confirmed yet")
	errSlow          = errors.New("the device asks too often")
	errDenied        = errors.New("the login was refused")
	errDevice        = errors.New("the device code is unknown or was used")
	errUserCode      = errors.New("this code is not known here, was used already or took too long: look at the device again")
	errConfirm       = errors.New("this page has nothing to confirm here any more, or was opened in another browser: look at the device again")
	errDeviceExpired = errors.New("the device code has expired: start again")
)

// ErrNoSigningKey means that there is no signing key of that kid.
var ErrNoSigningKey = errors.New("there is no such signing key")

// refusals says for each reason how it is answered (RFC 6749, section 5.2) and
// what the audit calls it. The first that matches counts.
var refusals = []struct {
	err    error
	status int
	code   string
	reason string
}{
	{policy.ErrUnknownKey, http.StatusUnauthorized, "invalid_client", "key_unknown"},
	{errNoKey, http.StatusUnauthorized, "invalid_client", "key_missing"},
	{errOwnerGone, http.StatusBadRequest, "unauthorized_client", "owner_absent"},
	{errStaleKey, http.StatusServiceUnavailable, "temporarily_unavailable", "key_changed"},
	{policy.ErrOverdue, http.StatusBadRequest, "unauthorized_client", "rotation_overdue"},
	{policy.ErrIdentity, http.StatusBadRequest, "invalid_request", "identity_missing"},
	{policy.ErrNoScope, http.StatusBadRequest, "invalid_scope", "scope"},
	{policy.ErrActors, http.StatusBadRequest, "invalid_grant", "actors"},
	{policy.ErrKeyState, http.StatusBadRequest, "unauthorized_client", "key_not_active"},
	{policy.ErrBinding, http.StatusBadRequest, "invalid_grant", "key_not_bound"},
	{policy.ErrGroupsUnknown, http.StatusBadRequest, "invalid_grant", "groups_unknown"},
	{policy.ErrMember, http.StatusBadRequest, "invalid_grant", "not_a_member"},
	{policy.ErrScope, http.StatusBadRequest, "invalid_scope", "scope"},
	{policy.ErrNothing, http.StatusBadRequest, "invalid_scope", "scope"},
	{policy.ErrExpiry, http.StatusBadRequest, "invalid_grant", "expired"},
	{token.ErrScope, http.StatusBadRequest, "invalid_scope", "scope"},
	{errGrant, http.StatusBadRequest, "unsupported_grant_type", "grant_type"},
	{errTarget, http.StatusBadRequest, "invalid_target", "audience"},
	{errReplay, http.StatusBadRequest, "invalid_grant", "replayed"},
	{errClientReplay, http.StatusUnauthorized, "invalid_client", "replayed"},
	{errCode, http.StatusBadRequest, "invalid_grant", "code"},
	{errRefresh, http.StatusBadRequest, "invalid_grant", "session"},
	{errSession, http.StatusUnauthorized, "invalid_token", "session"},
	{errSubjectToken, http.StatusBadRequest, "invalid_request", "subject_token"},
	{errStale, http.StatusUnauthorized, "insufficient_user_authentication", "login_not_fresh"}, // RFC 9470.
	{errRole, http.StatusForbidden, "access_denied", "role"},
	{errTooFast, http.StatusTooManyRequests, "temporarily_unavailable", "rate"},
	{errPending, http.StatusBadRequest, "authorization_pending", "pending"},
	{errSlow, http.StatusBadRequest, "slow_down", "pending"},
	{errDenied, http.StatusBadRequest, "access_denied", "denied"},
	{errDevice, http.StatusBadRequest, "invalid_grant", "code"},
	{errDeviceExpired, http.StatusBadRequest, "expired_token", "expired"},
	{errUserCode, http.StatusBadRequest, "invalid_request", "code"},
	{errConfirm, http.StatusBadRequest, "invalid_request", "code"},
	{policy.ErrNoSuchKey, http.StatusNotFound, "not_found", "key_unknown"},
	{ErrNoSigningKey, http.StatusNotFound, "not_found", "kid_unknown"},
	{policy.ErrKeyChanged, http.StatusPreconditionFailed, "precondition_failed", "key_changed"},
	{policy.ErrKeyFinal, http.StatusConflict, "conflict", "key_final"},
	{policy.ErrTwoSecrets, http.StatusConflict, "conflict", "two_secrets"},
	{policy.ErrNoSecrets, http.StatusConflict, "conflict", "no_secrets"},
	{policy.ErrSecrets, http.StatusConflict, "conflict", "no_public_keys"},
	{policy.ErrLastSecret, http.StatusConflict, "conflict", "last_secret"},
	{policy.ErrCursor, http.StatusBadRequest, "invalid_request", "cursor"},
	{idp.ErrIdentity, http.StatusBadRequest, "invalid_grant", "identity"},
	{idp.ErrRefused, http.StatusBadRequest, "invalid_grant", "identity"},
	{idp.ErrAway, http.StatusServiceUnavailable, "temporarily_unavailable", "provider_away"},
	{errNoAudit, http.StatusServiceUnavailable, "temporarily_unavailable", "audit"},
}

// subjectError is what is wrong in an exchange of tokens: RFC 8693, section
// 2.2.2, calls it invalid_request what other grants call invalid_grant.
type subjectError struct{ error }

func (e subjectError) Unwrap() error { return e.error }

// refusal turns err into its answer and its reason in the audit. What is on no
// list is our own fault.
func refusal(err error) (ref *reply.Refusal, reason string) {
	if errors.As(err, &ref) {
		return &reply.Refusal{Status: ref.Status, Code: ref.Code, Detail: ref.Detail, RetryAfter: ref.RetryAfter, Err: ref.Err}, ref.Code
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			ref = &reply.Refusal{Status: r.status, Code: r.code, Detail: reply.Sentence(r.err)}
			if err.Error() != r.err.Error() {
				ref.Err = err
			}
			var subject subjectError
			if errors.As(err, &subject) && ref.Code == "invalid_grant" {
				ref.Code = "invalid_request"
			}
			return ref, r.reason
		}
	}
	return reply.AsRefusal(err), "error"
}

// keep records how a request was decided: err is why it was refused, or nil. It
// returns what to refuse it with; when the record can not be kept, nothing is
// allowed.
func (s *Server) keep(r *http.Request, rec *audit.Record, err error) error {
	rec.Outcome = audit.Allow
	var ref *reply.Refusal
	if err != nil {
		ref, rec.Reason = refusal(err)
		ref.Decision = rec.Decision
		rec.Outcome, rec.Detail, rec.Status = audit.Deny, ref.Detail, ref.Status
	}
	// A client that hangs up must not keep its decision out of the record.
	if lost := s.Audit.Append(context.WithoutCancel(r.Context()), *rec); lost != nil {
		ref, _ = refusal(errors.Join(errNoAudit, lost, err))
		ref.Decision = rec.Decision
	}
	if ref == nil {
		return nil
	}
	return ref
}
