package issuer

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// Bounds of what a person says of a key.
const (
	maxKeyBody    = 16 << 10
	maxKeyGrants  = 16
	maxKeyText    = 200
	defaultKeyAge = 90 * 24 * time.Hour
	maxKeyAge     = 366 * 24 * time.Hour
)

// byPerson runs do for a person with a fresh login and records what came of it.
func (s *Server) byPerson(event string, w http.ResponseWriter, r *http.Request, status int, do func(who policy.Identity, rec *audit.Record, now time.Time) (any, error)) error {
	now := s.Now()
	rec := audit.Record{Time: now, Decision: audit.NewID(), Event: event, ClientIP: clientIP(r)}
	who, err := s.freshLogin(r, now)
	var answer any
	if err == nil {
		rec.Identity = who.String()
		answer, err = do(who, &rec, now)
	}
	if err := s.keep(r, &rec, err); err != nil {
		return err
	}
	reply.JSON(w, status, answer)
	return nil
}

// createdKey is the one answer that ever holds a key's secret.
type createdKey struct {
	policy.Key
	Secret string `json:"key"`
}

// createKey enrols a machine key for the person who asks, bound to their own
// identity: POST /v1/keys with {"grants": [...]} and, if wanted, "team",
// "description", "ip_ranges" and "expires_in" (seconds).
func (s *Server) createKey(w http.ResponseWriter, r *http.Request) error {
	return s.byPerson("key.create", w, r, http.StatusCreated, func(who policy.Identity, rec *audit.Record, now time.Time) (any, error) {
		k, life, err := readKey(r)
		if err != nil {
			return nil, err
		}
		for _, name := range k.Grants {
			if g, ok := s.Grants[name]; !ok || !g.Admits(who) {
				return nil, &reply.Refusal{Status: http.StatusForbidden, Code: "access_denied", Detail: "You may not hold one of these grants."}
			}
		}
		k.Owner = who.String()
		k.Bindings = []policy.Binding{{Issuer: who.Issuer, Subject: who.Subject}}
		k, secret, err := s.Keys.Create(r.Context(), k, life, now)
		if err != nil {
			return nil, err
		}
		rec.Key, rec.Team = k.ID, k.Team
		return createdKey{k, secret}, nil
	})
}

// listKeys answers with the asker's own keys: GET /v1/keys.
func (s *Server) listKeys(w http.ResponseWriter, r *http.Request) error {
	return s.byPerson("key.list", w, r, http.StatusOK, func(who policy.Identity, _ *audit.Record, now time.Time) (any, error) {
		list, err := s.Keys.List(r.Context(), who.String())
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i].State = list[i].StateAt(now)
		}
		return map[string]any{"keys": append([]policy.Key{}, list...)}, nil
	})
}

// disableKey ends the use of one of the asker's own keys:
// POST /v1/keys/{id}/disable with {"reason": "..."}.
func (s *Server) disableKey(w http.ResponseWriter, r *http.Request) error {
	return s.byPerson("key.disable", w, r, http.StatusOK, func(who policy.Identity, rec *audit.Record, _ time.Time) (any, error) {
		reason := ""
		if err := readBody(r, map[string]func(strictjson.Value) bool{"reason": textInto(&reason)}); err != nil {
			return nil, err
		}
		rec.Key = mux.Vars(r)["id"]
		err := s.Keys.Disable(r.Context(), who.String(), rec.Key, reason)
		if errors.Is(err, policy.ErrNoSuchKey) {
			rec.Key = "" // A stranger's text.
			return nil, errKeyOwner
		}
		return map[string]string{"id": rec.Key, "state": string(policy.Disabled)}, err
	})
}

func readKey(r *http.Request) (k policy.Key, life time.Duration, err error) {
	seconds := int64(defaultKeyAge / time.Second)
	err = readBody(r, map[string]func(strictjson.Value) bool{
		"team":        textInto(&k.Team),
		"description": textInto(&k.Description),
		"grants": func(v strictjson.Value) (ok bool) {
			k.Grants, ok = v.Texts(maxKeyGrants)
			return ok
		},
		"ip_ranges": func(v strictjson.Value) (ok bool) {
			k.IPRanges, ok = readNetworks(v)
			return ok
		},
		"expires_in": func(v strictjson.Value) (ok bool) {
			seconds, ok = v.Int()
			return ok && seconds > 0 && seconds <= int64(maxKeyAge/time.Second)
		},
	})
	switch {
	case err != nil:
		return policy.Key{}, 0, err
	case len(k.Grants) == 0:
		return policy.Key{}, 0, badRequest("grants must name at least one grant.")
	case len(slices.Compact(slices.Sorted(slices.Values(k.Grants)))) != len(k.Grants):
		return policy.Key{}, 0, badRequest("grants names one twice.")
	}
	return k, time.Duration(seconds) * time.Second, nil
}

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

func textInto(to *string) func(strictjson.Value) bool {
	return func(v strictjson.Value) (ok bool) {
		*to, ok = v.Text()
		return ok && len(*to) <= maxKeyText && printable(*to)
	}
}

// readBody reads a JSON object strictly: each member known, and of its form.
func readBody(r *http.Request, members map[string]func(strictjson.Value) bool) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return badRequest("Content-Type must be application/json.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxKeyBody))
	if err != nil {
		return badRequest("The body is too large or was cut off.")
	}
	doc, err := strictjson.Object(body, strictjson.Limits{Depth: 4})
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
