package issuer

import (
	"errors"
	"net/http"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/ledger/remote"
	"github.com/hourpass/hourpass/internal/policy"
)

// Ledger keeps what is spent of budgets.
type Ledger interface {
	ledger.Engine
	ledger.Book
}

// leases is POST /ledger: a verifier, by its own machine key, settles and renews
// its leases of budgets. Any verifier may of any budget: it is they who say what
// was spent.
func (s *Server) leases(w http.ResponseWriter, r *http.Request) error {
	return s.forVerifier(r, func(key policy.Key, _ time.Time) error {
		err := remote.Serve(w, r, s.Ledger, key.ID)
		if errors.Is(err, ledger.ErrClaim) {
			return badRequest("The claims are out of bounds.")
		}
		return err
	})
}

// forVerifier does what a verifier asks, by its own machine key. Only what others
// ask counts against the address: verifiers ask often.
func (s *Server) forVerifier(r *http.Request, do func(key policy.Key, now time.Time) error) error {
	now, addr := s.Now(), s.clientAddr(r)
	if err := s.throttles.admit(addr, now); err != nil {
		return err
	}
	key, err := s.verifierKey(r, form{}, now)
	if err != nil {
		if tooFast := s.throttles.failed(err, addr, namedKey(r), now); tooFast != nil {
			return tooFast
		}
		return err
	}
	s.throttles.addresses.Undo(nameOf(addr))
	return do(key, now)
}
