package idp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// TestGroupsOverage: groups that the provider left out are unknown, not none.
func TestGroupsOverage(t *testing.T) {
	entra := vendors["entra"]
	p := mustProvider(t, withKeys(entra.config))
	for why, row := range map[string]struct {
		spoil   func(*idToken)
		unknown bool
		groups  int
	}{
		"as sent": {func(*idToken) {}, false, 1},
		"none":    {drop("groups"), false, 0},
		"elsewhere": {func(t *idToken) {
			delete(t.claims, "groups")
			t.claims["_claim_names"] = map[string]string{"groups": "src1"}
		}, true, 0},
		"elsewhere, and some here":    {set("_claim_names", map[string]string{"groups": "src1"}), true, 0},
		"names of another form":       {set("_claim_names", []string{"groups"}), true, 0},
		"hasgroups":                   {func(t *idToken) { delete(t.claims, "groups"); t.claims["hasgroups"] = true }, true, 0},
		"hasgroups as a text":         {set("hasgroups", "true"), true, 0},
		"groups:src1":                 {func(t *idToken) { delete(t.claims, "groups"); t.claims["groups:src1"] = map[string]string{} }, true, 0},
		"something else is elsewhere": {set("_claim_names", map[string]string{"photo": "src1"}), false, 1},
	} {
		token := newToken(entra.token)
		row.spoil(token)
		who, err := p.Whose(token.String(), moment)
		if err != nil || who.GroupsUnknown != row.unknown || len(who.Groups) != row.groups || who.Subject != oid {
			t.Errorf("%s: Identify = %+v, %v, want unknown %v and %d groups", why, who, err, row.unknown, row.groups)
		}
	}
}

// TestGroupsWithinAClaim: Keycloak's roles stand in an object.
func TestGroupsWithinAClaim(t *testing.T) {
	keycloak := vendors["keycloak"]
	c := withKeys(keycloak.config)
	c.GroupsClaim = "/realm_access/roles"
	who, err := mustProvider(t, c).Whose(newToken(keycloak.token).String(), moment)
	if err != nil || !slices.Equal(who.Groups, []string{"offline_access"}) {
		t.Errorf("Identify = %+v, %v, want the realm's roles as groups", who, err)
	}
}

// TestAccessTokens: some providers give a workload nothing else. Then they are
// accepted, as far as they are for us, and nothing worse.
func TestAccessTokens(t *testing.T) {
	for name, row := range map[string]struct {
		vendor string
		make   func(*idToken)
		worse  func(*idToken)
	}{
		"keycloak": {"keycloak", func(t *idToken) { t.claims["typ"] = "Bearer"; t.header["typ"] = "at+jwt" }, set("typ", "Logout")},
		"okta":     {"okta", func(t *idToken) { t.claims["cid"], t.claims["scp"] = "x", []string{"tokens"} }, set("aud", "https://acme.okta.com")},
	} {
		c := withKeys(vendors[row.vendor].config)
		c.AccessTokens = true
		p := mustProvider(t, c)
		token := newToken(vendors[row.vendor].token)
		row.make(token)
		if _, err := p.Whose(token.String(), moment); err != nil {
			t.Errorf("%s: an access token: %v", name, err)
		}
		row.worse(token)
		if who, err := p.Whose(token.String(), moment); !errors.Is(err, idp.ErrIdentity) {
			t.Errorf("%s: spoilt: Identify = %+v, %v, want it refused", name, who, err)
		}
	}
}

// TestAuthorizedParty: a client that may ask for a token may not have it made
// for others too.
func TestAuthorizedParty(t *testing.T) {
	c := withKeys(vendors["keycloak"].config)
	c.AuthorizedParties = []string{"wiki"}
	p := mustProvider(t, c)
	token := newToken(vendors["keycloak"].token)
	token.claims["azp"] = "wiki"
	if _, err := p.Whose(token.String(), moment); err != nil {
		t.Errorf("asked for by a known party: %v", err)
	}
	token.claims["aud"] = []string{"portal", "wiki"}
	if who, err := p.Whose(token.String(), moment); !errors.Is(err, idp.ErrIdentity) {
		t.Errorf("for the party too: Identify = %+v, %v, want it refused", who, err)
	}
}

// TestSharedByConfiguration: of a provider that no type knows, the configuration
// says that it is anybody's; then its claims are the pins.
func TestSharedByConfiguration(t *testing.T) {
	c := withKeys(vendors["oidc"].config)
	c.Shared, c.Require = true, []idp.Requirement{{"https://acme.com/dept": exactly("search", "research")}}
	p := mustProvider(t, c)
	if !p.AnybodysProvider() || !slices.Equal(p.Pins(), []string{"dept", "flag", "level"}) {
		t.Errorf("shared %v, pins %q, want the mapped claims", p.AnybodysProvider(), p.Pins())
	}
	if own := mustProvider(t, withKeys(vendors["keycloak"].config)); own.AnybodysProvider() {
		t.Error("one's own Keycloak is anybody's")
	}
	if gitlab := mustProvider(t, withKeys(vendors["gitlab"].config)); !gitlab.AnybodysProvider() || !slices.Contains(gitlab.Pins(), "project_id") {
		t.Error("gitlab.com is not anybody's, or has no pins")
	}
	c = withKeys(vendors["gitlab"].config)
	c.Issuer, c.Require = "https://gitlab.acme.com", nil
	if own := mustProvider(t, c); own.AnybodysProvider() {
		t.Error("one's own GitLab is anybody's")
	}
}

// TestPick: who verifies a token is told by its iss; a JWT-SVID's trust domain
// counts only where no provider has that iss.
func TestPick(t *testing.T) {
	spiffe := func(name, domain, iss string) *idp.Provider {
		c := withKeys(vendors["spiffe"].config)
		c.TrustDomain, c.Issuer = domain, iss
		p := mustProvider(t, c)
		p.Name = name
		return p
	}
	oidc := mustProvider(t, withKeys(vendors["oidc"].config))
	prod, dev := spiffe("prod", "prod.acme.com", ""), spiffe("dev", "dev.acme.com", "")
	named := spiffe("named", "named.acme.com", "https://spire.acme.com")
	list := []*idp.Provider{oidc, prod, dev, named}
	for why, row := range map[string]struct {
		claims string
		want   *idp.Provider
	}{
		"by iss":                           {`{"iss":"https://idp.acme.com","sub":"ada"}`, oidc},
		"iss first":                        {`{"iss":"https://idp.acme.com","sub":"spiffe://prod.acme.com/a"}`, oidc},
		"by trust domain":                  {`{"sub":"spiffe://prod.acme.com/a"}`, prod},
		"by the other trust domain":        {`{"sub":"spiffe://dev.acme.com/a"}`, dev},
		"by trust domain, an iss unlisted": {`{"iss":"https://x.acme.com","sub":"spiffe://dev.acme.com/a"}`, dev},
		"by iss, as configured":            {`{"iss":"https://spire.acme.com","sub":"spiffe://named.acme.com/a"}`, named},
		"no iss where one is configured":   {`{"sub":"spiffe://named.acme.com/a"}`, nil},
		"a trust domain nobody has":        {`{"sub":"spiffe://x.acme.com/a"}`, nil},
		"an iss nobody has":                {`{"iss":"https://x.acme.com","sub":"ada"}`, nil},
		"neither":                          {`{"sub":"ada"}`, nil},
		"an empty iss":                     {`{"iss":"","sub":"ada"}`, nil},
		"an iss that is a trust domain":    {`{"iss":"spiffe://prod.acme.com","sub":"ada"}`, nil},
		"iss twice":                        {`{"iss":"https://x.acme.com","iss":"https://idp.acme.com"}`, nil},
		"no JSON":                          {`iss`, nil},
	} {
		got, err := idp.Pick(list, "e30."+b64([]byte(row.claims))+".AA")
		if got != row.want || (err == nil) != (row.want != nil) || err != nil && !errors.Is(err, idp.ErrIdentity) {
			t.Errorf("%s: Pick = %v, %v", why, got, err)
		}
	}
	if _, err := idp.Pick(list, strings.Repeat("x", idp.MaxAssertion+1)); !errors.Is(err, idp.ErrIdentity) {
		t.Errorf("too long: Pick: %v", err)
	}

	// What was picked still has the last word.
	svid := newToken(vendors["spiffe"].token)
	if _, err := prod.Whose(svid.String(), moment); err != nil {
		t.Errorf("its own workload: %v", err)
	}
	for why, p := range map[string]*idp.Provider{"another trust domain": dev, "no iss": named} {
		if who, err := p.Whose(svid.String(), moment); !errors.Is(err, idp.ErrIdentity) {
			t.Errorf("%s: Identify = %+v, %v, want it refused", why, who, err)
		}
	}
}

// TestOneProviderDown: it can't be judged, and everything else goes on.
func TestOneProviderDown(t *testing.T) {
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/.well-known/") {
			base := "http://" + r.Host
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": base, "jwks_uri": base + "/keys", "authorization_endpoint": base + "/a", "token_endpoint": base + "/t"})
			return
		}
		_, _ = w.Write(keySet(publicJWK("r", "sig")))
	}))
	defer good.Close()
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer bad.Close()

	var list []*idp.Provider
	for name, address := range map[string]string{"up": good.URL, "down": bad.URL} {
		c := withKeys(idp.Config{Issuer: address, Audiences: []string{"portal"}})
		c.Name, c.JWKS = name, nil
		p := mustProvider(t, c)
		list = append(list, p)
		running(t, p)
	}
	token := func(iss string) string {
		now := time.Now()
		return (&idToken{
			header: map[string]any{"alg": "RS256", "kid": "r"}, kid: "r",
			claims: map[string]any{"iss": iss, "sub": "ada", "aud": "portal", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()},
		}).String()
	}
	identify := func(iss string) error {
		p, err := idp.Pick(list, token(iss))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Whose(token(iss), time.Now())
		return err
	}
	await(t, "the provider that is up", func() bool { return identify(good.URL) == nil })
	if err := identify(bad.URL); !errors.Is(err, idp.ErrAway) || errors.Is(err, idp.ErrIdentity) {
		t.Errorf("the provider that is down: %v, want it to be away, and no word on the token", err)
	}
	if err := identify(good.URL); err != nil {
		t.Errorf("the provider that is up, then: %v", err)
	}
}

// TestKeysWithoutMetadata: a bundle endpoint publishes keys and nothing else, and
// nothing else is asked for.
func TestKeysWithoutMetadata(t *testing.T) {
	var others atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/bundle" {
			others.Add(1)
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(keySet(publicJWK("e", "jwt-svid"), publicJWK("r", "x509-svid")))
	}))
	defer srv.Close()
	v := vendors["spiffe"]
	c := v.config
	c.JWKS, c.JWKSURL = nil, srv.URL+"/bundle"
	p := mustProvider(t, withKeys(c))
	if err := p.Ready(); err != nil {
		t.Errorf("Ready = %v, but there is nothing to ask first", err)
	}
	fresh := func(alg, kid string) string {
		token := newToken(v.token)
		token.header["alg"], token.header["kid"], token.kid = alg, kid, kid
		token.claims["iat"], token.claims["exp"] = time.Now().Unix(), time.Now().Add(time.Minute).Unix()
		return token.String()
	}
	if _, err := p.Whose(fresh("ES256", "e"), time.Now()); !errors.Is(err, idp.ErrAway) {
		t.Errorf("before the keys are there: %v, want %v", err, idp.ErrAway)
	}
	running(t, p)
	await(t, "the bundle's keys", func() bool { _, err := p.Whose(fresh("ES256", "e"), time.Now()); return err == nil })
	if _, err := p.Whose(fresh("RS256", "r"), time.Now()); !errors.Is(err, idp.ErrIdentity) {
		t.Errorf("signed with a key for certificates: %v, want it refused", err)
	}
	if n := others.Load(); n != 0 {
		t.Errorf("it was asked %d times for something else than its keys", n)
	}
}

func TestBundleKeys(t *testing.T) {
	for in, want := range map[string]string{
		`{"spiffe_sequence":1,"keys":[{"use":"jwt-svid","kid":"a"},{"use":"x509-svid"},{"kid":"b"},{"use":"sig","kid":"c"}]}`: `{"keys":[{"kid":"a","use":"sig"},{"kid":"b"},{"kid":"c","use":"sig"}]}`,
		`{"keys":[]}`:                    `{"keys":[]}`,
		`{"issuer":"x"}`:                 `{"issuer":"x"}`,
		`{"keys":[1]}`:                   `{"keys":[1]}`,
		`{"keys":{}}`:                    `{"keys":{}}`,
		`{"keys":[],"keys":[{"a":1}]}`:   `{"keys":[],"keys":[{"a":1}]}`,
		`<html>`:                         `<html>`,
		`{"keys":[{"kid":1,"kid":2}]}`:   `{"keys":[{"kid":1,"kid":2}]}`,
		`{"keys":[{"use":"enc","k":1}]}`: `{"keys":[{"k":1,"use":"enc"}]}`,
	} {
		if got := string(idp.BundleKeys([]byte(in))); got != want {
			t.Errorf("BundleKeys(%s) = %s, want %s", in, got, want)
		}
	}
}

// google answers in place of Google, as its metadata is.
type google struct{}

func (google) RoundTrip(r *http.Request) (*http.Response, error) {
	body := `{"issuer":"https://accounts.google.com","authorization_endpoint":"https://accounts.google.com/o/oauth2/v2/auth",
		"token_endpoint":"https://oauth2.googleapis.com/token","userinfo_endpoint":"https://openidconnect.googleapis.com/v1/userinfo",
		"jwks_uri":"https://www.googleapis.com/oauth2/v3/certs"}`
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// TestGoogleLogin: its endpoints are on other hosts, and it gives a refresh token
// for a parameter, not for a scope.
func TestGoogleLogin(t *testing.T) {
	c := config("")
	c.Type, c.Require, c.Transport = "google", []idp.Requirement{{"hd": exactly("acme.com")}}, google{}
	p := mustProvider(t, c)
	running(t, p)
	await(t, "Google's metadata", func() bool { return p.Ready() == nil })
	address, err := p.LoginURL()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Host != "accounts.google.com" || q.Get("access_type") != "offline" || q.Get("scope") != "openid email" || q.Get("code_challenge_method") != "S256" {
		t.Errorf("AuthURL = %s, want PKCE, offline access and Google's scopes", address)
	}
}

// running runs a provider until the test ends.
func running(t *testing.T, p *idp.Provider) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ends with %v", err)
		}
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
