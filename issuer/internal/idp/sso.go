package idp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/internal/policy"
)

// Bounds of talk with an identity provider.
const (
	providerTimeout  = 10 * time.Second
	providerMaxBytes = 1 << 20 // Of any one answer.
	firstBackoff     = time.Second
	maxBackoff       = time.Minute
	rediscover       = time.Hour
)

// discovered is what a provider says of itself.
type discovered struct {
	endpoint    oauth2.Endpoint
	responseISS bool // RFC 9207: its authorization responses name it.
	jwksURI     string
	keys        KeySource // Nil until opened.
}

var (
	// errUndiscovered is why a provider that was never reached can't be asked.
	errUndiscovered = errors.New("its metadata was not fetched yet")
	// ErrAway means that a provider could not be asked; nothing is said
	// about who asked.
	ErrAway = errors.New("the identity provider can't be asked now")
	// ErrRefused means that the provider no longer vouches.
	ErrRefused = errors.New("the identity provider no longer vouches for this login")
)

// connect makes the client that asks the provider, and opens the keys that need
// no metadata.
func (p *Provider) connect(bad *Problems) {
	transport := p.Transport
	if transport == nil {
		transport = http.DefaultTransport.(*http.Transport).Clone()
	}
	transport = boundedTransport{transport}
	if p.Type == typeSPIFFE {
		transport = bundleTransport{transport}
		if p.JWKS != nil {
			p.JWKS = bundleKeys(p.JWKS)
		}
	}
	p.client = &http.Client{
		Timeout:   providerTimeout,
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("a redirect, which is never followed") // It could lead our secret elsewhere.
		},
	}
	if p.fetchesMetadata() {
		p.err.Store(&errUndiscovered)
		return
	}
	keys, err := p.openKeys(p.JWKSURL)
	if err != nil {
		field := "jwks_file"
		if p.JWKSURL != "" {
			field = "jwks_url"
		}
		bad.check(false, field, "%v", err)
		return
	}
	p.known.Store(&discovered{jwksURI: p.JWKSURL, keys: keys})
}

func (p *Provider) openKeys(url string) (KeySource, error) {
	spec := KeySpec{URL: url, Client: p.client, Types: p.Types, Algorithms: p.Algorithms}
	if url == "" {
		spec.Document = p.JWKS
	}
	return p.OpenKeys(spec)
}

// Run fetches the provider's metadata, again each hour and sooner when that
// fails, and keeps its keys fresh, until ctx ends. One that needs no metadata is
// not asked for any.
func (p *Provider) Run(ctx context.Context, log *slog.Logger) error {
	stopKeys := func() {}
	defer func() { stopKeys() }()
	if !p.fetchesMetadata() {
		stopKeys = p.runKeys(ctx, log, p.known.Load().keys)
		<-ctx.Done()
		return nil
	}
	backoff := firstBackoff
	for {
		wait := rediscover
		d, err := p.discover(ctx)
		if err == nil && d.keys == nil {
			if d.keys, err = p.openKeys(d.jwksURI); err == nil {
				stopKeys()
				stopKeys = p.runKeys(ctx, log, d.keys)
			}
		}
		if err == nil {
			p.known.Store(d)
			p.err.Store(nil)
			backoff = firstBackoff
		} else if ctx.Err() == nil {
			log.Warn("asking the identity provider for its metadata", "provider", p.Name, "err", err.Error())
			p.err.Store(&err) // What was known before stays known.
			wait, backoff = backoff, min(2*backoff, maxBackoff)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// runKeys runs a key source until the returned function, which waits for it,
// is called or ctx ends.
func (p *Provider) runKeys(ctx context.Context, log *slog.Logger, keys KeySource) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := keys.Run(ctx); err != nil && ctx.Err() == nil {
			log.Error("keeping the identity provider's keys", "provider", p.Name, "err", err.Error())
		}
	}()
	return func() { cancel(); <-done }
}

// discover asks the provider for its metadata. go-oidc holds it to its own
// issuer URL; its endpoints must be on known hosts.
func (p *Provider) discover(ctx context.Context) (*discovered, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.Issuer)
	if err != nil {
		return nil, err
	}
	var more struct {
		JWKS        string `json:"jwks_uri"`
		ResponseISS bool   `json:"authorization_response_iss_parameter_supported"`
	}
	if err := found.Claims(&more); err != nil {
		return nil, err
	}
	d := &discovered{endpoint: found.Endpoint(), responseISS: more.ResponseISS, jwksURI: more.JWKS}
	for name, endpoint := range map[string]string{
		"authorization_endpoint": d.endpoint.AuthURL, "token_endpoint": d.endpoint.TokenURL, "jwks_uri": d.jwksURI,
	} {
		if err := p.trustsEndpoint(endpoint); err != nil && (p.ClientID != "" || name == "jwks_uri") {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if old := p.known.Load(); old != nil && old.jwksURI == d.jwksURI {
		d.keys = old.keys
	}
	return d, nil
}

func (p *Provider) trustsEndpoint(endpoint string) error {
	own, _ := url.Parse(p.Issuer) // New parsed it.
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "":
		return errors.New("is missing or no URL")
	case u.Scheme != own.Scheme:
		return fmt.Errorf("is %s, the issuer %s", u.Scheme, own.Scheme)
	case u.Host != own.Host && !slices.Contains(p.EndpointHosts, u.Host):
		return errors.New("is on another host, which endpoint_hosts does not name")
	}
	return nil
}

// Ready says why the provider can't be asked, or nil.
func (p *Provider) Ready() error {
	if err := p.err.Load(); err != nil {
		return fmt.Errorf("identity provider %s: %w", p.Name, *err)
	}
	return nil
}

// Answers tells whether an authorization response that names iss as its sender,
// or nobody where iss is empty, can be the provider's (RFC 9207).
func (p *Provider) Answers(iss string) bool {
	d := p.known.Load()
	return d != nil && (iss == p.Issuer || iss == "" && !d.responseISS)
}

// AuthURL is where a browser logs in. verifier is the PKCE secret (RFC 7636).
func (p *Provider) AuthURL(callback, state, nonce, verifier string) (string, error) {
	d := p.known.Load()
	if d == nil {
		return "", ErrAway
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)}
	for name, value := range p.preset.authParams {
		options = append(options, oauth2.SetAuthURLParam(name, value))
	}
	return p.oauth(d, callback).AuthCodeURL(state, options...), nil
}

func (p *Provider) oauth(d *discovered, callback string) *oauth2.Config {
	return &oauth2.Config{
		ClientID: p.ClientID, ClientSecret: p.ClientSecret, Endpoint: d.endpoint,
		RedirectURL: callback, Scopes: append([]string{oidc.ScopeOpenID}, p.Scopes...),
	}
}

// Proof is what a login at the provider yields.
type Proof struct {
	Identity policy.Identity
	Refresh  string // The provider's refresh token. May be empty.
}

// Redeem turns the code that the browser brought back into a proof.
func (p *Provider) Redeem(ctx context.Context, callback, code, verifier, nonce string, now time.Time) (Proof, error) {
	d := p.known.Load()
	if d == nil {
		return Proof{}, ErrAway
	}
	tokens, err := p.oauth(d, callback).Exchange(oidc.ClientContext(ctx, p.client), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Proof{}, providerError(err)
	}
	return p.prove(tokens, Expectation{Audiences: []string{p.ClientID}, Nonce: nonce}, now)
}

// Ask gets a new proof from the provider for a login it vouched for before, so
// that whoever left the company is out at the next refresh.
func (p *Provider) Ask(ctx context.Context, refresh string, now time.Time) (Proof, error) {
	d := p.known.Load()
	if d == nil {
		return Proof{}, ErrAway
	}
	ctx = oidc.ClientContext(ctx, p.client)
	tokens, err := p.oauth(d, "").TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
	if err != nil {
		return Proof{}, providerError(err)
	}
	return p.prove(tokens, Expectation{Audiences: []string{p.ClientID}}, now)
}

func (p *Provider) prove(tokens *oauth2.Token, want Expectation, now time.Time) (Proof, error) {
	raw, ok := tokens.Extra("id_token").(string)
	if !ok {
		return Proof{}, fmt.Errorf("%w: it gave no ID token", ErrRefused)
	}
	want.AccessToken = tokens.AccessToken
	who, err := p.Identify(raw, want, now)
	if err != nil {
		return Proof{}, err
	}
	return Proof{who.Identity, tokens.RefreshToken}, nil
}

// providerError tells a provider that said no from one that could not be asked.
func providerError(err error) error {
	var said *oauth2.RetrieveError
	if errors.As(err, &said) && said.Response.StatusCode < http.StatusInternalServerError && said.Response.StatusCode != http.StatusTooManyRequests {
		return fmt.Errorf("%w: %s", ErrRefused, said.ErrorCode)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: it did not answer in time", ErrAway)
	}
	return fmt.Errorf("%w: %T", ErrAway, err) // The text could hold what was sent.
}

// boundedTransport cuts answers off at providerMaxBytes: a provider, or whoever
// answers for it, must not fill our memory.
type boundedTransport struct{ http.RoundTripper }

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, providerMaxBytes), res.Body}
	return res, nil
}
