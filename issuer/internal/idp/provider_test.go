package idp_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// noKeys is a source that verifies nothing.
type noKeys struct{}

func (noKeys) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (noKeys) Verify(string, time.Time) ([]byte, error) { return nil, errors.New("no keys") }

func config(issuerURL string) idp.Config {
	return idp.Config{
		Name: "corp", Issuer: issuerURL, ClientID: "hourpass", ClientSecret: "secret",
		OpenKeys: func(idp.KeySpec) (idp.KeySource, error) { return noKeys{}, nil },
	}
}

func TestNewProviderRefuses(t *testing.T) {
	for why, spoil := range map[string]func(*idp.Config){
		"no name":               func(c *idp.Config) { c.Name = "" },
		"a name with a colon":   func(c *idp.Config) { c.Name = "a:b" },
		"a name in capitals":    func(c *idp.Config) { c.Name = "Corp" },
		"a long name":           func(c *idp.Config) { c.Name = strings.Repeat("a", 33) },
		"no issuer":             func(c *idp.Config) { c.Issuer = "" },
		"plain http":            func(c *idp.Config) { c.Issuer = "http://idp.example" },
		"http to a metadata IP": func(c *idp.Config) { c.Issuer = "http://169.254.169.254" },
		"a file":                func(c *idp.Config) { c.Issuer = "file:///etc/passwd" },
		"a query":               func(c *idp.Config) { c.Issuer = "https://idp.example?x=y" },
		"a fragment":            func(c *idp.Config) { c.Issuer = "https://idp.example#x" },
		"credentials":           func(c *idp.Config) { c.Issuer = "https://a:b@idp.example" },
		"for nobody":            func(c *idp.Config) { c.ClientID = "" },
		"for everybody":         func(c *idp.Config) { c.Audiences = []string{"*"} },
		"an empty audience":     func(c *idp.Config) { c.Audiences = []string{""} },
		"no keys":               func(c *idp.Config) { c.OpenKeys = nil },
	} {
		c := config("https://idp.example")
		spoil(&c)
		if _, err := idp.New(c); err == nil {
			t.Errorf("%s: NewProvider(%+v): no error", why, c)
		}
	}
	for _, good := range []string{"https://idp.example", "https://idp.example/realms/a", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"} {
		if _, err := idp.New(config(good)); err != nil {
			t.Errorf("NewProvider of %s: %v", good, err)
		}
	}
}

// TestDiscovery: a provider's metadata, good and then spoilt in one way a row,
// must not lead anywhere else.
func TestDiscovery(t *testing.T) {
	for why, row := range map[string]struct {
		spoil func(base string, doc map[string]any)
		hosts []string
		want  string // In the reason; empty: it is taken.
	}{
		"good":                      {},
		"another issuer":            {spoil: func(_ string, d map[string]any) { d["issuer"] = "https://evil.example" }, want: "issuer"},
		"the issuer with a slash":   {spoil: func(base string, d map[string]any) { d["issuer"] = base + "/" }, want: "issuer"},
		"keys elsewhere":            {spoil: func(_ string, d map[string]any) { d["jwks_uri"] = "http://127.0.0.2:1/keys" }, want: "jwks_uri"},
		"keys elsewhere, as agreed": {spoil: func(_ string, d map[string]any) { d["jwks_uri"] = "http://127.0.0.2:1/keys" }, hosts: []string{"127.0.0.2:1"}},
		"token endpoint elsewhere":  {spoil: func(_ string, d map[string]any) { d["token_endpoint"] = "http://127.0.0.2:1/t" }, want: "token_endpoint"},
		"login elsewhere":           {spoil: func(_ string, d map[string]any) { d["authorization_endpoint"] = "http://127.0.0.2:1/a" }, want: "authorization_endpoint"},
		"another scheme": {
			spoil: func(base string, d map[string]any) { d["token_endpoint"] = strings.Replace(base, "http:", "ftp:", 1) }, want: "token_endpoint",
		},
		"no keys":  {spoil: func(_ string, d map[string]any) { delete(d, "jwks_uri") }, want: "jwks_uri"},
		"no login": {spoil: func(_ string, d map[string]any) { delete(d, "authorization_endpoint") }, want: "authorization_endpoint"},
		"too long": {spoil: func(_ string, d map[string]any) { d["x"] = strings.Repeat("x", 2<<20) }, want: "unexpected end"},
	} {
		t.Run(why, func(t *testing.T) {
			var base string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				doc := map[string]any{"issuer": base, "jwks_uri": base + "/keys", "authorization_endpoint": base + "/a", "token_endpoint": base + "/t"}
				if row.spoil != nil {
					row.spoil(base, doc)
				}
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(doc)
			}))
			defer srv.Close()
			base = srv.URL
			c := config(base)
			c.EndpointHosts = row.hosts
			wantDiscovery(t, c, row.want)
		})
	}
}

// TestDiscoveryFollowsNoRedirect: it could lead our client secret elsewhere.
func TestDiscoveryFollowsNoRedirect(t *testing.T) {
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	srv := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer srv.Close()
	wantDiscovery(t, config(srv.URL), "redirect")
	if asked {
		t.Error("the other host was asked")
	}
}

// wantDiscovery runs a provider until it has made up its mind.
func wantDiscovery(t *testing.T, c idp.Config, want string) {
	t.Helper()
	p, err := idp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	undecided := p.Ready()
	if undecided == nil {
		t.Fatal("a provider that nobody asked is ready")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, slog.New(slog.DiscardHandler)) }()
	var got error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got = p.Ready(); got == nil || got.Error() != undecided.Error() {
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run ends with %v", err)
	}
	switch {
	case want == "" && got != nil:
		t.Errorf("Ready = %v, want nil", got)
	case want != "" && (got == nil || !strings.Contains(got.Error(), want)):
		t.Errorf("Ready = %v, want it to speak of %q", got, want)
	}
}
