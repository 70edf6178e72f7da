package issuer

import (
	"cmp"
	"database/sql"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// Bounds of a machine key.
const (
	maxKeyGrants   = 16
	maxKeyBindings = 16
	maxKeyJWKS     = 8 << 10
	defaultKeyAge  = 90 * 24 * time.Hour
	maxKeyAge      = 366 * 24 * time.Hour
	defaultOverlap = 7 * 24 * time.Hour
)

// secretKey is the one answer that ever holds a key's secret.
type secretKey struct {
	policy.Key
	Secret string `json:"key,omitempty"`
}

// keyChangers are the members that creating and editing have in common.
var keyChangers = []string{"owner", "team", "description", "grants", "bindings", "identity", "ip_ranges", "limits", "params", "verifier_for", "expires_in"}

// createKey enrols a machine key for the person who asks, bound to their own
// identity unless they say otherwise: POST /v1/keys.
func (s *Server) createKey(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "key.create", http.StatusCreated, func(p person, rec *audit.Record, now time.Time) (any, error) {
		if !p.fresh {
			return nil, errStale
		}
		change, err := readKeyChange(r, append(keyChangers, "jwks")...)
		if err != nil {
			return nil, err
		}
		k := policy.Key{
			Owner: p.String(), Identity: policy.Required, JWKS: change.jwks,
			Bindings: []policy.Binding{{Issuer: p.Issuer, Subject: p.Subject}},
		}
		change.apply(&k)
		if err := s.mayHave(p, policy.Key{Owner: p.String()}, k); err != nil {
			return nil, err
		}
		life := change.life
		if life == 0 {
			life = defaultKeyAge
		}
		made, secret, err := s.Keys.Create(r.Context(), k, life, now, nil)
		if err != nil {
			return nil, err
		}
		rec.Key, rec.Team = made.ID, made.Team
		w.Header().Set("Location", "/v1/keys/"+made.ID)
		w.Header().Set("ETag", etagOf(made.Version))
		return secretKey{made, secret}, nil
	})
}

// listKeys is GET /v1/keys: the asker's own, or, for admins and auditors with
// ?owner=, anybody's, and with ?owner=* everybody's.
func (s *Server) listKeys(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "key.list", http.StatusOK, func(p person, _ *audit.Record, now time.Time) (any, error) {
		q, err := readQuery(r, "owner", "team", "state", "cursor", "limit")
		if err != nil {
			return nil, err
		}
		for name, text := range q {
			if !idp.Printable(text) { // No key has that, and PostgreSQL takes no NUL.
				return nil, badRequest(name + " has a bad value.")
			}
		}
		f := policy.KeyFilter{Owner: q["owner"], Team: q["team"], State: policy.State(q["state"]), After: q["cursor"]}
		if q["limit"] != "" {
			if f.Limit, err = strconv.Atoi(q["limit"]); err != nil || f.Limit < 1 || f.Limit > policy.MaxPage {
				return nil, badRequest("limit must be 1 to " + strconv.Itoa(policy.MaxPage) + ".")
			}
		}
		if f.Owner == "" {
			f.Owner = p.String()
		}
		if f.Owner != p.String() && !s.mayRead(p) {
			return nil, errRole
		}
		if f.Owner == "*" {
			f.Owner = ""
		}
		if err := s.Keys.Flush(r.Context()); err != nil { // Their last uses are shown.
			return nil, err
		}
		page, err := s.Keys.List(r.Context(), f, now)
		if err != nil {
			return nil, err
		}
		for i, k := range page.Keys {
			page.Keys[i].State = k.StateAt(now)
		}
		answer := map[string]any{"keys": page.Keys}
		if page.Next != "" {
			answer["next_cursor"] = page.Next
		}
		if len(page.Forged) > 0 && s.mayRead(p) {
			answer["forged"] = page.Forged
		}
		return answer, nil
	})
}

// onKey runs do for a person who may see the key that the path names. To all
// others there is no such key.
func (s *Server) onKey(event string, do func(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.api(w, r, event, http.StatusOK, func(p person, rec *audit.Record, now time.Time) (any, error) {
			if err := s.Keys.Flush(r.Context()); err != nil { // Its last uses are shown.
				return nil, err
			}
			k, err := s.Keys.Get(r.Context(), mux.Vars(r)["id"])
			if err != nil {
				return nil, err
			}
			if k.Owner != p.String() && !s.mayRead(p) {
				return nil, policy.ErrNoSuchKey
			}
			rec.Key, rec.Team = k.ID, k.Team
			answer, err := do(w, r, p, k, now)
			switch after := answer.(type) {
			case policy.Key:
				rec.Change = changes(k, after)
			case secretKey:
				rec.Change = changes(k, after.Key)
			}
			return answer, err
		})
	}
}

// mayChange wants the key's owner or an admin. It is asked before the body is
// read, and of the key as it is changed: in between it may become another's.
func (s *Server) mayChange(p person, k policy.Key) error {
	if k.Owner != p.String() && !s.isAdmin(p) {
		return errRole // An auditor: they see the key, so it is no secret that it is there.
	}
	return nil
}

func shown(w http.ResponseWriter, k policy.Key, now time.Time) policy.Key {
	w.Header().Set("ETag", etagOf(k.Version))
	k.State = k.StateAt(now)
	return k
}

// showKey is GET /v1/keys/{id}.
func (s *Server) showKey(w http.ResponseWriter, _ *http.Request, _ person, k policy.Key, now time.Time) (any, error) {
	return shown(w, k, now), nil
}

// editKey is PATCH /v1/keys/{id} (RFC 7396): to narrow, a login is enough; to
// widen takes a fresh one, and ceilings that allow it.
func (s *Server) editKey(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error) {
	if err := s.mayChange(p, k); err != nil {
		return nil, err
	}
	seen, err := version(r)
	if err != nil {
		return nil, err
	}
	change, err := readKeyChange(r, keyChangers...)
	if err != nil {
		return nil, err
	}
	k, err = s.Keys.Update(r.Context(), k.ID, seen, func(k *policy.Key) error {
		if err := s.mayChange(p, *k); err != nil {
			return err
		}
		old := *k
		change.apply(k)
		if change.life > 0 {
			k.ExpiresAt = now.UTC().Truncate(time.Second).Add(change.life)
		}
		switch {
		case k.ExpiresAt.After(k.CreatedAt.Add(maxKeyAge)):
			return badRequest("A key lives a year at most: create another.")
		case len(k.Grants) == 0 && len(k.VerifierFor) == 0:
			return badRequest("grants must name at least one grant.")
		case k.Narrower(old):
			return nil
		case !p.fresh:
			return errStale
		}
		return s.mayHave(p, old, *k)
	}, nil)
	if err != nil {
		return nil, err
	}
	return shown(w, k, now), nil
}

// disableKey is POST /v1/keys/{id}/disable with {"reason": "…"}: no more tokens,
// and those that are out are revoked.
func (s *Server) disableKey(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error) {
	return s.endKey(w, r, p, k, policy.Disabled, now)
}

// revokeKey is POST /v1/keys/{id}/revoke: as disable, for ever.
func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error) {
	return s.endKey(w, r, p, k, policy.Revoked, now)
}

// deleteKey is DELETE /v1/keys/{id}: as revoke, and it is listed no more. What
// it did stays in the audit, and its id is never used again.
func (s *Server) deleteKey(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error) {
	return s.endKey(w, r, p, k, policy.Deleted, now)
}

func (s *Server) endKey(w http.ResponseWriter, r *http.Request, p person, k policy.Key, to policy.State, now time.Time) (any, error) {
	if err := s.mayChange(p, k); err != nil {
		return nil, err
	}
	seen, err := version(r)
	if err != nil {
		return nil, err
	}
	change, err := readKeyChange(r, "reason")
	if err != nil {
		return nil, err
	}
	k, err = s.Keys.Update(r.Context(), k.ID, seen, func(k *policy.Key) error {
		if err := s.mayChange(p, *k); err != nil {
			return err
		}
		if k.State == to || k.State == policy.Quarantined && to == policy.Disabled {
			return nil // The first reason stays, and quarantine is not lifted by the way.
		}
		k.State, k.StateReason, k.StateBy = to, change.reason, p.String()
		return nil
	}, s.revokeKeyIn(r.Context(), k.ID, change.reason, now))
	if err != nil {
		return nil, err
	}
	s.showRevoked(r.Context(), now)
	return shown(w, k, now), nil
}

// enableKey is POST /v1/keys/{id}/enable: admins, and owners what they disabled
// themselves.
func (s *Server) enableKey(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error) {
	if err := s.mayChange(p, k); err != nil {
		return nil, err
	}
	seen, err := version(r)
	switch {
	case err != nil:
		return nil, err
	case !p.fresh:
		return nil, errStale
	}
	var also func(*sql.Tx) error
	if k.State == policy.Quarantined && k.StateReason == spendReason {
		also = s.pardon(r.Context(), k.ID, now)
	}
	k, err = s.Keys.Update(r.Context(), k.ID, seen, func(k *policy.Key) error {
		if err := s.mayChange(p, *k); err != nil {
			return err
		}
		if !s.isAdmin(p) && (k.State != policy.Disabled || k.StateBy != p.String()) {
			return errRole
		}
		k.State, k.StateReason, k.StateBy = policy.Active, "", ""
		return nil
	}, also)
	if err != nil {
		return nil, err
	}
	return shown(w, k, now), nil
}

// rotateKey is POST /v1/keys/{id}/rotate with {"overlap": SECONDS}: a fresh
// secret, beside which the one before works for a while. A key with public keys
// takes {"jwks": …} instead.
func (s *Server) rotateKey(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error) {
	if err := s.mayChange(p, k); err != nil {
		return nil, err
	}
	seen, err := version(r)
	switch {
	case err != nil:
		return nil, err
	case !p.fresh:
		return nil, errStale
	}
	change, err := readKeyChange(r, "overlap", "jwks")
	if err != nil {
		return nil, err
	}
	seen = cmp.Or(seen, k.Version) // A secret is for whom the key was found to be.
	if change.jwks != "" {
		if err := s.CheckClientKeys(change.jwks); err != nil {
			return nil, &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: "jwks can't be enrolled: " + err.Error() + "."}
		}
		if k, err = s.Keys.Enrol(r.Context(), k.ID, seen, change.jwks, now, nil); err != nil {
			return nil, err
		}
		return shown(w, k, now), nil
	}
	k, secret, err := s.Keys.Rotate(r.Context(), k.ID, seen, change.overlap, now, nil)
	if err != nil {
		return nil, err
	}
	return secretKey{shown(w, k, now), secret}, nil
}

// endSecret is DELETE /v1/keys/{id}/secrets/{number}: one of two ends now.
func (s *Server) endSecret(w http.ResponseWriter, r *http.Request, p person, k policy.Key, now time.Time) (any, error) {
	if err := s.mayChange(p, k); err != nil {
		return nil, err
	}
	number, err := strconv.ParseInt(mux.Vars(r)["number"], 10, 64)
	if err != nil {
		return nil, policy.ErrLastSecret
	}
	seen, err := version(r)
	if err != nil {
		return nil, err
	}
	if k, err = s.Keys.EndSecret(r.Context(), k.ID, cmp.Or(seen, k.Version), number, now, nil); err != nil {
		return nil, err
	}
	return shown(w, k, now), nil
}
