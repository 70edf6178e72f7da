package issuer

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// maxBody bounds the body of a request to the API.
const maxBody = 16 << 10

// api runs do for a person who has logged in, and records what came of it.
func (s *Server) api(w http.ResponseWriter, r *http.Request, event string, status int, do func(person, *audit.Record, time.Time) (any, error)) error {
	now := s.Now()
	return s.decided(w, r, event, status, func(rec *audit.Record) (any, error) {
		p, err := s.person(r, now)
		if err != nil {
			if r.Header.Get("Authorization") == "" { // RFC 6750, section 3.1: who has shown nothing has done nothing wrong.
				w.Header().Set("WWW-Authenticate", `Bearer realm="Hourpass"`)
			}
			return nil, err
		}
		rec.Identity = p.String()
		return do(p, rec, now)
	})
}

// isAdmin tells whether the person may do everything.
func (s *Server) isAdmin(p person) bool { return among(s.Admins, p.Identity) }

// mayRead tells whether the person may see everything.
func (s *Server) mayRead(p person) bool { return s.isAdmin(p) || among(s.Auditors, p.Identity) }

func among(members []policy.Members, i policy.Identity) bool {
	return policy.Grant{Members: members}.Admits(i)
}

// admin wants an admin who logged in moments ago.
func (s *Server) admin(p person) error {
	switch {
	case !s.isAdmin(p):
		return errRole
	case !p.fresh:
		return errStale
	}
	return nil
}

// me is GET /v1/me: who asks, what they may hold, and what is left of it.
func (s *Server) me(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "me", http.StatusOK, func(p person, _ *audit.Record, now time.Time) (any, error) {
		role := "member"
		switch {
		case s.isAdmin(p):
			role = "admin"
		case s.mayRead(p):
			role = "auditor"
		}
		grants := []map[string]any{}
		for _, name := range s.grantNames() {
			if g := s.Grants[name]; g.Admits(p.Identity) {
				grants = append(grants, map[string]any{
					"name": name, "tier": g.Tier, "scope": g.Scopes.String(), "default_scope": g.Default.String(),
					"max_lifetime": int64(g.MaxLifetime / time.Second), "limits": g.Limits, "params": g.Params,
				})
			}
		}
		budgets, err := s.budgets(r.Context(), p, now)
		if err != nil {
			return nil, err
		}
		return map[string]any{"identity": p.String(), "role": role, "groups": p.Groups, "fresh_login": p.fresh, "grants": grants, "budgets": budgets}, nil
	})
}

func (s *Server) grantNames() []string {
	names := make([]string, 0, len(s.Grants))
	for name := range s.Grants {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// logOut is POST /v1/me/logout: all of a person's sessions end, and what they
// opened is revoked.
func (s *Server) logOut(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "logout", http.StatusNoContent, func(p person, _ *audit.Record, now time.Time) (any, error) {
		return nil, s.revokeIdentity(r.Context(), p.String(), "logged out everywhere", now)
	})
}

// revokeIdentity ends all sessions of an identity and revokes its tokens. The
// events are told exactly if it is done.
func (s *Server) revokeIdentity(ctx context.Context, identity, reason string, now time.Time, events ...alert.Event) error {
	err := store.Tx(ctx, s.DB, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE sessions SET ended = 1 WHERE identity_mac = $1`, s.identityMAC(identity)); err != nil {
			return fmt.Errorf("revoking an identity: %w", err)
		}
		if err := s.revokeIn(ctx, tx, revocation.Identity, identity, reason, lastExpiry(now)); err != nil {
			return err
		}
		return s.tell(ctx, tx, events)
	})
	if err != nil {
		return err
	}
	s.Alert.Wake()
	s.showRevoked(ctx, now)
	return nil
}

// revokeAny is POST /v1/revocations, for admins: {"what": "identity", "value":
// "corp:4711", "reason": "…"}.
func (s *Server) revokeAny(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "revoke", http.StatusCreated, func(p person, rec *audit.Record, now time.Time) (any, error) {
		if err := s.admin(p); err != nil {
			return nil, err
		}
		var what, value, reason string
		if err := readBody(r, map[string]func(strictjson.Value) bool{"what": textInto(&what), "value": textInto(&value), "reason": textInto(&reason)}); err != nil {
			return nil, err
		}
		kind := revocation.What(what)
		if !slices.Contains(revocation.Kinds, kind) || (kind == revocation.All) != (value == "") {
			return nil, badRequest("what must be token, key, identity, grant, signing_key or all, with a value for each but all.")
		}
		var err error
		events := wideRevocation(kind, value, p, rec, now)
		if kind == revocation.Identity {
			err = s.revokeIdentity(r.Context(), value, reason, now, events...)
		} else {
			err = s.revokeNow(r.Context(), kind, value, reason, lastExpiry(now), now, events...)
		}
		rec.Detail = what + " " + value
		return map[string]any{"generation": s.feed.current().set.Generation}, err
	})
}

// listRevocations is GET /v1/revocations: what is revoked at present, latest
// first.
func (s *Server) listRevocations(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "revocation.list", http.StatusOK, func(p person, _ *audit.Record, now time.Time) (any, error) {
		if !s.mayRead(p) {
			return nil, errRole
		}
		rows, err := s.DB.QueryContext(r.Context(), `SELECT generation, what, value, not_before, until, reason FROM revocations
			WHERE until > $1 ORDER BY generation DESC LIMIT 1000`, now.Unix())
		if err != nil {
			return nil, fmt.Errorf("listing revocations: %w", err)
		}
		defer func() { _ = rows.Close() }()
		list := []map[string]any{}
		for rows.Next() {
			var generation, before, until int64
			var what, value, reason string
			if err := rows.Scan(&generation, &what, &value, &before, &until, &reason); err != nil {
				return nil, fmt.Errorf("listing revocations: %w", err)
			}
			list = append(list, map[string]any{
				"generation": generation, "what": what, "value": value, "reason": reason,
				"not_before": time.Unix(before, 0).UTC(), "until": time.Unix(until, 0).UTC(),
			})
		}
		if err := rows.Err(); err != nil {
			return nil, fmt.Errorf("listing revocations: %w", err)
		}
		return map[string]any{"revocations": list}, nil
	})
}

// revokeKeyIn revokes a key's tokens along with a change of the key.
func (s *Server) revokeKeyIn(ctx context.Context, id, reason string, now time.Time) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		return s.revokeIn(ctx, tx, revocation.Key, id, reason, lastExpiry(now))
	}
}

// version reads the If-Match header: the version of a key that the client saw,
// or 0 where it does not say.
func version(r *http.Request) (int64, error) {
	texts := r.Header.Values("If-Match")
	if len(texts) == 0 || len(texts) == 1 && texts[0] == "*" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(texts[0], `"`), 10, 64)
	if err != nil || n <= 0 || len(texts) > 1 || texts[0] != etagOf(n) {
		return 0, badRequest("If-Match must be the ETag of the key as it was read.")
	}
	return n, nil
}

func etagOf(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

func readNetworks(v strictjson.Value) ([]netip.Prefix, bool) {
	if v.Kind == strictjson.KindNull {
		return nil, true
	}
	list, ok := v.Texts(token.MaxList)
	if !ok {
		return nil, false
	}
	networks := []netip.Prefix{}
	for _, text := range list {
		p, err := token.ParseNetwork(text)
		if err != nil {
			return nil, false
		}
		networks = append(networks, p)
	}
	return networks, true
}

// maxKeyText bounds what a person says of a key.
const maxKeyText = 200

func textInto(to *string) func(strictjson.Value) bool {
	return func(v strictjson.Value) (ok bool) {
		*to, ok = v.Text()
		return ok && len(*to) <= maxKeyText && idp.Printable(*to)
	}
}

// readBody reads a JSON object strictly: each member known, and of its form. An
// empty body is an empty object.
func readBody(r *http.Request, members map[string]func(strictjson.Value) bool) error {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return badRequest("The body is too large or was cut off.")
	}
	if len(body) == 0 {
		return nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" && media != "application/merge-patch+json" {
		return badRequest("Content-Type must be application/json.")
	}
	doc, err := strictjson.Object(body, strictjson.Limits{Depth: 6})
	if err != nil {
		return &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: "The body is not one plain JSON object: " + err.Error() + "."}
	}
	for _, m := range doc {
		read, known := members[m.Name]
		if !known {
			return badRequest("The body has a member that is not known here.")
		}
		if !read(m.Value) {
			return badRequest(fmt.Sprintf("%s has a bad value.", m.Name))
		}
	}
	return nil
}
