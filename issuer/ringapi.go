package issuer

import (
	"net/http"
	"time"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/revocation"
)

// listSigningKeys is GET /v1/signing-keys.
func (s *Server) listSigningKeys(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "signing_key.list", http.StatusOK, func(p person, _ *audit.Record, _ time.Time) (any, error) {
		if !s.mayRead(p) {
			return nil, errRole
		}
		return s.signingKeys(), nil
	})
}

func (s *Server) signingKeys() any { return map[string]any{"signing_keys": s.Ring.Keys()} }

// rotateSigningKey is POST /v1/signing-keys/rotate: the next key is published
// now, and signs as soon as every verifier knows it.
func (s *Server) rotateSigningKey(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "signing_key.rotate", http.StatusOK, func(p person, _ *audit.Record, _ time.Time) (any, error) {
		if err := s.admin(p); err != nil {
			return nil, err
		}
		if err := s.Ring.Rotate(r.Context()); err != nil {
			return nil, err
		}
		return s.signingKeys(), nil
	})
}

// taintSigningKey is POST /v1/signing-keys/{kid}/taint: the key signs no more, is
// published no more, and all that it signed is revoked.
func (s *Server) taintSigningKey(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "signing_key.taint", http.StatusOK, func(p person, rec *audit.Record, now time.Time) (any, error) {
		if err := s.admin(p); err != nil {
			return nil, err
		}
		kid := mux.Vars(r)["kid"]
		if err := s.Ring.Taint(r.Context(), kid); err != nil {
			return nil, err
		}
		rec.Detail = "signing key " + kid
		// After the key is gone: what it signs in between, nobody has yet.
		return s.signingKeys(), s.revokeNow(r.Context(), revocation.SigningKey, kid, "tainted", lastExpiry(now), now, taintAlert(kid, p, rec, now))
	})
}
