package verifier

import (
	"context"
	"net/http"

	"github.com/hourpass/hourpass/verifier/internal/assertion"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// AssertionKeys sign who calls, for upstreams that want to check it.
type AssertionKeys = assertion.Keys

// OpenAssertionKeys reads private keys for P-256 from a file of PEM blocks with
// mode 0600. The first signs; all are published. issuer is the iss of what they
// sign.
func OpenAssertionKeys(path, issuer string) (*AssertionKeys, error) {
	return assertion.Open(path, issuer)
}

// Run asks after the health of upstreams that are configured so, until ctx ends.
// It then ends the WebSockets that are open, which a server's Shutdown does not.
func (v *Verifier) Run(ctx context.Context) error {
	defer v.sockets.end()
	return v.upstreams.Run(ctx)
}

// decorate puts into the header of a request for u what u is to know of the
// caller.
func (c *call) decorate(u *upstream.Server, header http.Header) error {
	err := u.Decorate(header, upstream.Claims{
		Subject: c.claims.Subject, ClientID: c.claims.ClientID, Team: c.claims.Team, Tier: c.claims.Tier, Grant: c.claims.Grant,
		Token: c.claims.ID, Decision: c.record.Decision, Model: c.model, Action: c.route.Action,
	})
	if err != nil {
		return &refusal.Denial{Is: refusal.ErrInternal, Cause: err}
	}
	return nil
}
