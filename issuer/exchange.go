package issuer

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// Token types of RFC 8693, section 3.
const (
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token" //nolint:gosec // A type's name.
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"     //nolint:gosec // A type's name.
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"          //nolint:gosec // A type's name.
)

// HonestRetry is how long the same key may present the same identity token
// again, and get the same token again: its first answer may have been lost.
const HonestRetry = 30 * time.Second

// exchange is one request that mints: who asks for what, with which key.
type exchange struct {
	*Server
	client client
	req    *tokenRequest
	rec    *audit.Record
	now    time.Time
}

// tokenExchange is the grant of RFC 8693: the identity is a token of a trusted
// provider, made for one of the accepted clients; or the token is one of ours,
// to be narrowed.
func (x exchange) tokenExchange(ctx context.Context) (any, error) {
	raw := x.req.form["subject_token"]
	if raw == "" {
		return nil, badRequest("subject_token is missing: a machine key alone gets no token.")
	}
	if t := x.req.form["requested_token_type"]; t != "" && t != typeAccessToken && t != typeJWT {
		return nil, badRequest("requested_token_type must be " + typeAccessToken + ".")
	}
	var answer tokenAnswer
	var err error
	switch t := x.req.form["subject_token_type"]; t {
	case typeIDToken, typeJWT:
		answer, err = x.byAssertion(ctx, raw)
	case typeAccessToken:
		answer, err = x.narrow(ctx, raw)
	default:
		return nil, badRequest("subject_token_type must be " + typeIDToken + ", " + typeJWT + ", or " + typeAccessToken + " to narrow a token of ours.")
	}
	if err != nil {
		return nil, subjectError{err}
	}
	answer.IssuedType = typeAccessToken
	return answer, nil
}

// jwtBearer is the grant of RFC 7523, section 2.1.
func (x exchange) jwtBearer(ctx context.Context) (any, error) {
	raw := x.req.form["assertion"]
	if raw == "" {
		return nil, badRequest("assertion is missing: a machine key alone gets no token.")
	}
	return x.byAssertion(ctx, raw)
}

// clientCredentials is the grant of RFC 6749, section 4.4: the identity stands
// beside the key as a client assertion, unless the key needs none.
func (x exchange) clientCredentials(ctx context.Context) (any, error) {
	if x.req.Client.Identity != "" {
		return x.byAssertion(ctx, x.req.Client.Identity)
	}
	m, err := x.mint(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	return x.use(ctx, m, nil)
}

// byAssertion mints for whom an identity token names.
func (x exchange) byAssertion(ctx context.Context, raw string) (tokenAnswer, error) {
	provider, err := idp.Pick(x.Providers, raw)
	if err != nil {
		return tokenAnswer{}, err
	}
	who, err := provider.Identify(raw, idp.Expectation{Audiences: provider.Audiences}, x.now)
	if err != nil {
		return tokenAnswer{}, err
	}
	x.rec.Identity = who.String()
	m, err := x.mint(ctx, &who.Identity, provider.CapExpiry)
	if err != nil {
		return tokenAnswer{}, err
	}
	mark, err := x.mark(who, raw, m)
	if err != nil {
		return tokenAnswer{}, err
	}
	return x.use(ctx, m, mark)
}

// use commits what the token leaves behind and returns the answer. mark, if not
// nil, is the identity token's.
func (x exchange) use(ctx context.Context, m minted, mark *usedOnce) (tokenAnswer, error) {
	var marks []*usedOnce
	for _, m := range []*usedOnce{mark, x.client.proof} {
		if m != nil {
			marks = append(marks, m)
		}
	}
	err := x.uses.commit(x.client.key, marks...)
	if errors.Is(err, errUsed) && mark != nil && !errors.Is(err, errProofUsed) {
		m, err = x.retry(ctx, mark)
	}
	if errors.Is(err, errUsed) {
		x.alarm(ctx, replayAlert(x.client.key, "assertion", "An assertion that was used before was presented again", x.rec, x.now))
		err = replayOf(err)
	}
	if err != nil {
		return tokenAnswer{}, err
	}
	x.Keys.Used(x.client.key.ID, x.client.number, x.req.From, x.now)
	m.note(x.rec)
	return m.answer(x.now), nil
}

// replayOf says which of the assertions was used before.
func replayOf(err error) error {
	if errors.Is(err, errProofUsed) {
		return errClientReplay
	}
	return errReplay
}

// mark is the mark of an identity token as used for m.
func (x exchange) mark(who idp.Assertion, raw string, m minted) (*usedOnce, error) {
	own := []string{"jti", who.ID}
	if who.ID == "" {
		// Without the signature: an ECDSA signature has a twin that anybody can
		// compute, and the pair would count as two tokens.
		own = []string{"signed part", raw[:strings.LastIndexByte(raw, '.')]}
	}
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("keeping a used identity token: %w", err)
	}
	sealed, err := x.Sealer.Seal(sealAnswer, plain)
	if err != nil {
		return nil, fmt.Errorf("keeping a used identity token: %w", err)
	}
	return &usedOnce{
		mark: newMark(who.Issuer, own...), key: x.client.key.ID, at: x.now,
		request: digest(x.req.Grant, x.req.Scope.String(), fmt.Sprint(x.req.HasScope), x.req.Audience),
		sealed:  sealed, forget: who.Expires.Add(time.Minute), again: errUsed,
	}, nil
}

// retry returns what the same key got moments ago for the same identity token
// and the same request; any other use is errUsed.
func (x exchange) retry(ctx context.Context, mark *usedOnce) (minted, error) {
	var usedBy string
	var usedAt int64
	var request, sealed []byte
	err := x.DB.QueryRowContext(ctx, `SELECT key_id, used_at, request, sealed FROM used_assertions WHERE mark = $1`, []byte(mark.mark)).Scan(&usedBy, &usedAt, &request, &sealed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return minted{}, errUsed // Forgotten between the two queries.
	case err != nil:
		return minted{}, fmt.Errorf("reading a used identity token: %w", err)
	case usedBy != mark.key || !bytes.Equal(request, mark.request) || x.now.Sub(time.Unix(usedAt, 0)) > HonestRetry:
		return minted{}, errUsed
	}
	plain, err := x.Sealer.Open(sealAnswer, sealed)
	if err != nil {
		return minted{}, fmt.Errorf("reading a used identity token: %w", err)
	}
	var before minted
	if err := json.Unmarshal(plain, &before); err != nil {
		return minted{}, fmt.Errorf("reading a used identity token: %w", err)
	}
	return before, nil
}

// The purposes of what is sealed or hashed.
const (
	sealAnswer  = "exchange answer"
	sealLogin   = "login"
	sealSession = "session"
	sealDevice  = "device login"
	macState    = "login state"
	macCode     = "authorization code"
	macAccess   = "login access token"
	macRefresh  = "refresh token"
	macDevice   = "device code"
	macUser     = "user code"
	macIdentity = "identity"
)
