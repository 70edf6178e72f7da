package issuerd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/issuer"
	"github.com/hourpass/hourpass/jwks"
)

// maxProviderFile bounds a file with certificates or keys, in bytes.
const maxProviderFile = 256 << 10

// providerSettings are as issuer.ProviderConfig says.
type providerSettings struct {
	Name              string            `yaml:"name"`
	Type              string            `yaml:"type"`
	Issuer            string            `yaml:"issuer"`
	Tenant            string            `yaml:"tenant"`
	TrustDomain       string            `yaml:"trust_domain"`
	ClientID          string            `yaml:"client_id"`
	ClientSecret      config.Secret     `yaml:"client_secret"`
	Scopes            []string          `yaml:"scopes"` // Absent: the type's. []: none.
	Audiences         []string          `yaml:"audiences"`
	AuthorizedParties []string          `yaml:"authorized_parties"`
	AccessTokens      bool              `yaml:"access_tokens"`
	Algorithms        []string          `yaml:"algorithms"`
	Types             []string          `yaml:"types"`
	MaxAge            time.Duration     `yaml:"max_age"`
	Skew              time.Duration     `yaml:"skew"`
	SubjectClaim      string            `yaml:"subject_claim"`
	GroupsClaim       string            `yaml:"groups_claim"`
	Claims            map[string]string `yaml:"claims"`
	Require           any               `yaml:"require"` // A mapping from claims to what they must be, or a list of such.
	Shared            bool              `yaml:"shared"`
	CapExpiry         bool              `yaml:"cap_expiry"`
	EndpointHosts     []string          `yaml:"endpoint_hosts"`

	// CAFile holds the certificates, in PEM, of those who may vouch for the
	// provider's hosts, instead of those that the system trusts.
	CAFile string `yaml:"ca_file"`

	// JWKSFile is the provider's key set, read at the start.
	JWKSFile string `yaml:"jwks_file"`
	JWKSURL  string `yaml:"jwks_url"`
}

// openProviders makes the providers, and notes what is wrong with them. Those
// that are wrong are left out.
func (c *settings) openProviders(p *config.Problems, now func() time.Time) []*issuer.Provider {
	var list []*issuer.Provider
	taken := map[string]bool{}
	once := func(field, path, value string) {
		p.Check(value == "" || !taken[field+" "+value], path+"."+field, "stands twice: each provider has its own")
		taken[field+" "+value] = true
	}
	for i, s := range c.Providers {
		path := "providers[" + strconv.Itoa(i) + "]"
		once("name", path, s.Name)
		once("trust_domain", path, s.TrustDomain)
		provider := s.open(p, path, now)
		if provider == nil {
			once("issuer", path, s.Issuer)
			continue
		}
		once("issuer", path, provider.Issuer)
		p.Check(provider.Issuer != c.URL, path+".issuer", "is our own: our tokens are no identity")
		list = append(list, provider)
	}
	return list
}

// open makes the provider, or notes what is wrong with it and returns nil.
func (s providerSettings) open(p *config.Problems, path string, now func() time.Time) *issuer.Provider {
	require, err := readRequire(s.Require)
	if err != nil {
		p.Add(path+".require", "%v", err)
		require = []issuer.Requirement{} // Else its absence would be told too.
	}
	conf := issuer.ProviderConfig{
		Name: s.Name, Type: s.Type, Issuer: s.Issuer, Tenant: s.Tenant, TrustDomain: s.TrustDomain,
		ClientID: s.ClientID, ClientSecret: s.ClientSecret.Reveal(), Scopes: s.Scopes,
		Audiences: s.Audiences, AuthorizedParties: s.AuthorizedParties, AccessTokens: s.AccessTokens,
		Algorithms: s.Algorithms, Types: s.Types, MaxAge: s.MaxAge, Skew: s.Skew,
		SubjectClaim: s.SubjectClaim, GroupsClaim: s.GroupsClaim, Claims: s.Claims, Require: require, Shared: s.Shared,
		CapExpiry: s.CapExpiry, JWKSURL: s.JWKSURL, EndpointHosts: s.EndpointHosts,
		OpenKeys: func(spec issuer.KeySpec) (issuer.KeySource, error) { return openKeys(spec, now) },
	}
	readable := err == nil
	if s.CAFile != "" {
		transport, err := trusting(s.CAFile)
		if err != nil {
			p.Add(path+".ca_file", "%v", err)
			readable = false
		}
		conf.Transport = transport
	}
	if s.JWKSFile != "" {
		if conf.JWKS, err = readProviderFile(s.JWKSFile); err != nil {
			p.Add(path+".jwks_file", "%v", err)
			readable, conf.JWKS = false, []byte{}
		}
	}
	provider, err := issuer.NewProvider(conf)
	var bad issuer.Problems
	errors.As(err, &bad)
	for _, b := range bad {
		if readable || b.Field != "require" && b.Field != "jwks_file" {
			p.Add(path+"."+b.Field, "%s", b.Text)
		}
	}
	if err != nil || !readable {
		return nil
	}
	return provider
}

// readRequire reads a mapping from claims to the texts or patterns that they must
// be, one or a list of them, or a list of such mappings, one of which must hold.
func readRequire(v any) ([]issuer.Requirement, error) {
	if v == nil {
		return nil, nil
	}
	alternatives, ok := v.([]any)
	if !ok {
		alternatives = []any{v}
	}
	all := []issuer.Requirement{}
	for _, alternative := range alternatives {
		claims, ok := alternative.(map[string]any)
		if !ok {
			return nil, errors.New("want claim: value, or a list of such mappings")
		}
		r := issuer.Requirement{}
		for _, name := range slices.Sorted(maps.Keys(claims)) {
			values, ok := claims[name].([]any)
			if !ok {
				values = []any{claims[name]}
			}
			for _, value := range values {
				text, ok := value.(string)
				if !ok {
					return nil, fmt.Errorf("%s: want a text; write numbers in quotes", name)
				}
				pattern, err := policy.ParsePattern(text)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				r[name] = append(r[name], pattern)
			}
		}
		all = append(all, r)
	}
	return all, nil
}

func readProviderFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxProviderFile+1))
	switch {
	case err == nil && len(b) == 0:
		err = fmt.Errorf("%s is empty", path)
	case len(b) > maxProviderFile:
		err = fmt.Errorf("%s is larger than %d bytes", path, maxProviderFile)
	}
	return b, err
}

// trusting is a transport that takes the word of the file's authorities alone.
func trusting(caFile string) (http.RoundTripper, error) {
	pem, err := readProviderFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", caFile)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// openKeys joins a provider to our key store.
func openKeys(spec issuer.KeySpec, now func() time.Time) (issuer.KeySource, error) {
	profile := jwks.Profile{Types: spec.Types, Algorithms: spec.Algorithms, MaxBytes: issuer.MaxAssertion}
	if spec.URL == "" {
		set, err := jwks.Parse(spec.Document)
		if err != nil {
			return nil, err
		}
		return fixedKeys{set, profile}, nil
	}
	return jwks.NewRemote(jwks.Config{URL: spec.URL, Client: spec.Client, Now: now, Profile: profile})
}

// fixedKeys are those of a file. They never change.
type fixedKeys struct {
	set     *jwks.Set
	profile jwks.Profile
}

func (k fixedKeys) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (k fixedKeys) Verify(compact string, _ time.Time) ([]byte, error) {
	return k.set.Verify(k.profile, compact)
}

// check notes what is wrong with a rule of who may hold a grant.
func (m membersSettings) check(p *config.Problems, at string, c *settings) {
	names := map[string]bool{}
	for _, s := range c.Providers {
		names[s.Name] = true
	}
	p.Check(names[m.Provider], at+".provider", "want one of %v", slices.Sorted(maps.Keys(names)))
	i := slices.IndexFunc(c.believed, func(b *issuer.Provider) bool { return b.Name == m.Provider })
	if i < 0 {
		return // Said already, there or at the provider.
	}
	provider := c.believed[i]
	if err := policy.Members(m).Check(provider.AnybodysProvider(), provider.Pins()); err != nil {
		p.Add(at, "%v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Claims)) {
		p.Check(slices.Contains(provider.ClaimNames(), name), at+".claims", "its provider maps no claim %q, but these: %s", name, strings.Join(provider.ClaimNames(), ", "))
	}
}
