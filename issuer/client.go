package issuer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// typeClientAssertion is the only kind of client_assertion (RFC 7523, section
// 2.2).
const typeClientAssertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Bounds of a client's own assertion (private_key_jwt).
const (
	maxClientAssertion = 8 << 10
	maxClientLife      = 5 * time.Minute
	clientSkew         = 30 * time.Second
)

// credentials are how a client says who it is: by a machine key's secret, by a
// signature of its own, or, for a public client, by its name alone.
type credentials struct {
	ID        string
	Secret    string
	Assertion string // Signed by the client.
	Identity  string // Beside the secret, in client_credentials: the identity.
}

// readCredentials takes the client's credentials from the Authorization header
// or the form, never both. beside says that the grant takes an identity as
// client_assertion beside a secret.
func readCredentials(r *http.Request, f form, beside bool) (credentials, error) {
	c := credentials{ID: f["client_id"], Secret: f["client_secret"], Assertion: f["client_assertion"]}
	if (f["client_assertion_type"] != "" || c.Assertion != "") && (f["client_assertion_type"] != typeClientAssertion || c.Assertion == "") {
		return credentials{}, badRequest("client_assertion goes with client_assertion_type=" + typeClientAssertion + ".")
	}
	if headers := r.Header.Values("Authorization"); len(headers) > 0 {
		id, secret, ok := r.BasicAuth()
		switch {
		case len(headers) > 1 || !ok:
			return credentials{}, badRequest("Authorization must be one Basic credential: the machine key's id and the key.")
		case c.Secret != "":
			return credentials{}, badRequest("The client authenticates twice: in the header and in the form.")
		}
		// RFC 6749, section 2.3.1 has both form-encoded first.
		id, err1 := url.QueryUnescape(id)
		secret, err2 := url.QueryUnescape(secret)
		if errors.Join(err1, err2) != nil {
			return credentials{}, badRequest("The Basic credential is not form-encoded.")
		}
		if c.ID != "" && c.ID != id {
			return credentials{}, badRequest("client_id names another client than the Authorization header.")
		}
		c.ID, c.Secret = id, secret
	}
	if c.Secret != "" && c.Assertion != "" {
		if !beside {
			return credentials{}, badRequest("The client authenticates twice: by its secret and by an assertion.")
		}
		c.Identity, c.Assertion = c.Assertion, ""
	}
	return c, nil
}

// client is a machine key that has authenticated itself.
type client struct {
	key    policy.Key
	number int64     // Of the secret that it used.
	proof  *usedOnce // Of a client that signed for itself: must not come twice.
}

// authenticate finds the machine key by its own secret or signature: the first
// of the two factors. It charges the record with it.
func (s *Server) authenticate(ctx context.Context, c credentials, rec *audit.Record, now time.Time) (client, error) {
	var found client
	var err error
	switch {
	case c.Secret != "":
		found.key, found.number, err = s.Keys.Authenticate(ctx, c.Secret, now)
		if err == nil && c.ID != found.key.ID {
			err = fmt.Errorf("%w: client_id is not its id", policy.ErrUnknownKey)
		}
	case c.Assertion != "":
		found, err = s.authenticateSigned(ctx, c, now)
	default:
		err = errNoKey
	}
	if err != nil {
		return client{}, err
	}
	rec.Key, rec.Team = found.key.ID, found.key.Team
	return found, nil
}

// authenticateSigned is private_key_jwt (RFC 7523, section 3; OpenID Connect Core
// 1.0, section 9), for keys that were enrolled with public keys.
func (s *Server) authenticateSigned(ctx context.Context, c credentials, now time.Time) (client, error) {
	refuse := func(why string) (client, error) {
		return client{}, fmt.Errorf("%w: %s", policy.ErrUnknownKey, why)
	}
	id, ok := peekSubject(c.Assertion)
	if !ok || c.ID != "" && c.ID != id {
		return refuse("the assertion is not one, or of another client")
	}
	key, err := s.Keys.Get(ctx, id)
	if errors.Is(err, policy.ErrNoSuchKey) || err == nil && key.JWKS == "" {
		return refuse("no public keys are enrolled for it")
	}
	if err != nil {
		return client{}, err
	}
	payload, err := s.VerifyClient(key.JWKS, c.Assertion, now)
	if err != nil {
		return refuse(err.Error())
	}
	members, err := strictjson.Object(payload, strictjson.Limits{})
	if err != nil {
		return refuse(err.Error())
	}
	claims := idp.Claims(members)
	iss, err1 := claims.Text("iss")
	sub, err2 := claims.Text("sub")
	// The issuer's own name and no other: an assertion that was made for another
	// server, or for several, is no proof to us.
	audiences, err3 := claims.OneOrMore("aud")
	jti, err4 := claims.Text("jti")
	expires, err5 := claims.Time("exp")
	issued, err6 := claims.OptionalTime("iat")
	before, err7 := claims.OptionalTime("nbf")
	switch {
	case errors.Join(err1, err2, err3, err4, err5, err6, err7) != nil:
		return refuse("a claim is missing or bad")
	case iss != id || sub != id:
		return refuse("iss and sub must both be its id")
	case len(audiences) != 1 || audiences[0] != s.URL:
		return refuse("aud must be " + s.URL + " and nothing else")
	case !now.Before(expires) || expires.After(now.Add(maxClientLife)):
		return refuse("it has expired, or lives longer than 5 minutes")
	case issued.After(now.Add(clientSkew)) || before.After(now.Add(clientSkew)):
		return refuse("it comes from the future")
	}
	return client{key, 1, &usedOnce{mark: newMark("client "+id, "jti", jti), key: id, at: now, forget: expires.Add(time.Minute), again: errProofUsed}}, nil
}

// peekSubject reads "sub" off an assertion of which nothing is proven yet, only
// to find whose public keys should verify it.
func peekSubject(raw string) (string, bool) {
	parts := strings.Split(raw, ".")
	if len(raw) > maxClientAssertion || len(parts) != 3 {
		return "", false
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return "", false
	}
	members, err := strictjson.Object(payload, strictjson.Limits{})
	if err != nil {
		return "", false
	}
	sub, err := idp.Claims(members).Text("sub")
	return sub, err == nil
}

// reread reads the client's key anew and tells whether it had changed. Errors
// match policy.ErrUnknownKey where the secret no longer opens what is there now.
func (s *Server) reread(ctx context.Context, c *client) (changed bool, err error) {
	s.Keys.Forget(c.key.ID)
	key, err := s.Keys.Get(ctx, c.key.ID)
	switch {
	case errors.Is(err, policy.ErrNoSuchKey):
		return true, policy.ErrUnknownKey
	case err != nil:
		return false, err
	case key.Version == c.key.Version:
		return false, nil
	}
	for _, secret := range key.Secrets {
		if secret.Number == c.number && (secret.EndsAt.IsZero() || s.Now().Before(secret.EndsAt)) && key.JWKS == c.key.JWKS {
			c.key = key
			return true, nil
		}
	}
	return true, policy.ErrUnknownKey
}

// spend has the client's own assertion, if it came with one, never count again,
// and asks whether its key is still as it was read.
func (s *Server) spend(ctx context.Context, c *client) error {
	var marks []*usedOnce
	if c.proof != nil {
		marks = append(marks, c.proof)
	}
	err := s.uses.commit(c.key, marks...)
	if errors.Is(err, errStaleKey) {
		if _, err = s.reread(ctx, c); err == nil {
			err = s.uses.commit(c.key, marks...)
		}
	}
	if errors.Is(err, errUsed) {
		return errClientReplay
	}
	return err
}
