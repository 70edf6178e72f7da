package issuer

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
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

// keyChange is what a request says of a key. What it does not name stays.
type keyChange struct {
	set       []func(*policy.Key)
	life      time.Duration // From now; zero: not said.
	jwks      string
	overlap   time.Duration
	reason    string
	hasGrants bool
}

// readKeyChange reads those of the members that the request may name.
func readKeyChange(r *http.Request, may ...string) (c keyChange, err error) {
	set := func(f func(*policy.Key)) bool { c.set = append(c.set, f); return true }
	text := func(apply func(*policy.Key, string)) func(strictjson.Value) bool {
		return func(v strictjson.Value) bool {
			var s string
			return textInto(&s)(v) && set(func(k *policy.Key) { apply(k, s) })
		}
	}
	members := map[string]func(strictjson.Value) bool{
		"owner":       text(func(k *policy.Key, s string) { k.Owner = s }),
		"team":        text(func(k *policy.Key, s string) { k.Team = s }),
		"description": text(func(k *policy.Key, s string) { k.Description = s }),
		"identity": func(v strictjson.Value) bool {
			s, ok := v.Text()
			return ok && (s == string(policy.Required) || s == string(policy.None)) && set(func(k *policy.Key) { k.Identity = policy.Need(s) })
		},
		"grants": func(v strictjson.Value) bool {
			list, ok := v.Texts(maxKeyGrants)
			c.hasGrants = true
			return ok && distinct(list) && set(func(k *policy.Key) { k.Grants = list })
		},
		"verifier_for": func(v strictjson.Value) bool {
			list, ok := v.Texts(maxKeyGrants)
			return ok && distinct(list) && set(func(k *policy.Key) { k.VerifierFor = list })
		},
		"bindings": func(v strictjson.Value) bool {
			list, ok := readBindings(v)
			return ok && set(func(k *policy.Key) { k.Bindings = list })
		},
		"ip_ranges": func(v strictjson.Value) bool {
			list, ok := readNetworks(v)
			return ok && set(func(k *policy.Key) { k.IPRanges = list })
		},
		"limits": func(v strictjson.Value) bool {
			l, ok := token.Limits(nil), v.Kind == strictjson.KindNull
			if !ok {
				l, ok = token.ReadLimits(v)
			}
			return ok && set(func(k *policy.Key) { k.Limits = l })
		},
		"params": func(v strictjson.Value) bool {
			p, ok := token.Params{}, v.Kind == strictjson.KindNull
			if !ok {
				p, ok = token.ReadParams(v)
			}
			return ok && set(func(k *policy.Key) { k.Params = p })
		},
		"expires_in": func(v strictjson.Value) bool { return secondsInto(&c.life, time.Second, maxKeyAge)(v) },
		"overlap":    func(v strictjson.Value) bool { return secondsInto(&c.overlap, 0, 30*24*time.Hour)(v) },
		"reason":     textInto(&c.reason),
		"jwks": func(v strictjson.Value) bool {
			c.jwks = string(v.Raw)
			return v.Kind == strictjson.KindObject && len(v.Raw) <= maxKeyJWKS
		},
	}
	for name := range members {
		if !slices.Contains(may, name) {
			delete(members, name)
		}
	}
	return c, readBody(r, members)
}

func (c keyChange) apply(k *policy.Key) {
	for _, set := range c.set {
		set(k)
	}
}

func distinct(list []string) bool {
	return len(slices.Compact(slices.Sorted(slices.Values(list)))) == len(list)
}

func secondsInto(to *time.Duration, least, most time.Duration) func(strictjson.Value) bool {
	return func(v strictjson.Value) bool {
		n, ok := v.Int()
		if !ok || n < int64(least/time.Second) || n > int64(most/time.Second) {
			return false
		}
		*to = time.Duration(n) * time.Second
		return true
	}
}

func readBindings(v strictjson.Value) (list []policy.Binding, ok bool) {
	if v.Kind != strictjson.KindArray {
		return nil, false
	}
	list = []policy.Binding{}
	if err := json.Unmarshal(v.Raw, &list); err != nil || len(list) > maxKeyBindings {
		return nil, false
	}
	return list, true
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

// mayHave says why the person may not make of old the key k: what is new in it
// must be within their own ceilings. Admins have none.
func (s *Server) mayHave(p person, old, k policy.Key) error {
	if len(k.Grants) == 0 && len(k.VerifierFor) == 0 {
		return badRequest("grants must name at least one grant.")
	}
	for _, name := range k.Grants {
		if _, ok := s.Grants[name]; !ok && !slices.Contains(old.Grants, name) {
			return notYours("hold one of these grants") // Whether there is such a grant is not for everybody to know.
		}
	}
	for _, audience := range k.VerifierFor {
		if !slices.Contains(s.Audiences, audience) {
			return badRequest("verifier_for must name audiences.")
		}
	}
	if k.JWKS != "" && k.JWKS != old.JWKS {
		if err := s.CheckClientKeys(k.JWKS); err != nil {
			return &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: "jwks can't be enrolled: " + err.Error() + "."}
		}
	}
	for _, b := range k.Bindings {
		if slices.ContainsFunc(old.Bindings, b.Equal) {
			continue
		}
		if err := s.checkBinding(b); err != nil {
			return err
		}
		if own := b.Issuer == p.Issuer && b.Subject == p.Subject; !own && !s.isAdmin(p) && !s.isWorkload(b) {
			return notYours("bind a key to somebody else")
		}
	}
	if s.isAdmin(p) {
		return nil
	}
	if k.Owner != p.String() || k.Identity == policy.None && old.Identity != policy.None || !slices.Equal(k.VerifierFor, old.VerifierFor) {
		return notYours("set owner, identity or verifier_for that way")
	}
	for _, name := range k.Grants {
		if g := s.Grants[name]; !slices.Contains(old.Grants, name) && !g.Admits(p.Identity) {
			return notYours("hold one of these grants")
		}
	}
	return nil
}

// notYours refuses what is beyond a person's ceilings.
func notYours(what string) error {
	return &reply.Refusal{Status: http.StatusForbidden, Code: "access_denied", Detail: "You may not " + what + "."}
}

// checkBinding refuses bindings that would fit strangers, or nobody.
func (s *Server) checkBinding(b policy.Binding) error {
	i := slices.IndexFunc(s.Providers, func(p *Provider) bool { return p.Issuer == b.Issuer })
	if i < 0 {
		return badRequest("bindings must name issuers that are trusted here.")
	}
	p := s.Providers[i]
	if err := b.Check(p.AnybodysProvider(), p.Pins()); err != nil {
		return badRequest("bindings: " + err.Error() + ".")
	}
	for name := range b.Claims {
		if !slices.Contains(p.ClaimNames(), name) {
			return badRequest("bindings: the identity provider has no claim of that name here.")
		}
	}
	return nil
}

// isWorkload tells whether only workloads have identities of the binding's
// issuer: nobody logs in there.
func (s *Server) isWorkload(b policy.Binding) bool {
	return slices.ContainsFunc(s.Providers, func(p *Provider) bool { return p.Issuer == b.Issuer && p.ClientID == "" })
}

// listKeys is GET /v1/keys: the asker's own, or, for admins and auditors with
// ?owner=, anybody's, and with ?owner=* everybody's.
func (s *Server) listKeys(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "key.list", http.StatusOK, func(p person, _ *audit.Record, now time.Time) (any, error) {
		q, err := readQuery(r, "owner", "team", "state", "cursor", "limit")
		if err != nil {
			return nil, err
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
		list, next, err := s.Keys.List(r.Context(), f, now)
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i].State = list[i].StateAt(now)
		}
		answer := map[string]any{"keys": list}
		if next != "" {
			answer["next_cursor"] = next
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
			return do(w, r, p, k, now)
		})
	}
}

// mayChange wants the key's owner or an admin.
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
	k, err = s.Keys.Update(r.Context(), k.ID, seen, func(k *policy.Key) error {
		if !s.isAdmin(p) && (k.State != policy.Disabled || k.StateBy != p.String()) {
			return errRole
		}
		k.State, k.StateReason, k.StateBy = policy.Active, "", ""
		return nil
	}, nil)
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
	if k, err = s.Keys.EndSecret(r.Context(), k.ID, seen, number, now, nil); err != nil {
		return nil, err
	}
	return shown(w, k, now), nil
}
