package toyidp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
)

// Config is everything a [Provider] is made from.
type Config struct {
	// Issuer is the provider's name and address, "http://127.0.0.1:9400": plain
	// HTTP, a loopback IP address, no path, no trailing slash.
	Issuer string

	// Clients are the applications that may send users here. Needed.
	Clients []Client

	// Users are the people who may log in. May be empty where only services do.
	Users []User

	// ServiceAudience is the aud of tokens for service clients: whoever is to
	// accept them. Needed as soon as a client is a service.
	ServiceAudience string

	// Log takes logins and refusals, never a password or a token. Nil: nothing
	// is logged. The provider library has its own lines in slog.Default().
	Log *slog.Logger
}

// Client is an application, or a service with an identity of its own.
type Client struct {
	// ID is the client_id. For a service it is also the subject of its tokens.
	ID string

	// Secret is taken as client_secret_basic and client_secret_post. Empty: a
	// public client, which must use PKCE.
	Secret string

	// RedirectURIs are compared byte by byte, the port included. Needed, unless
	// the client is a service, which has none.
	RedirectURIs []string

	// Service lets the client have JWT access tokens for itself
	// (client_credentials), and nothing else.
	Service bool
}

// User is a person who may log in.
type User struct {
	Subject  string   // The sub claim: stable, unique, no colon.
	Username string   // What is typed into the login page. Unique.
	Password string   // In the clear, since this is a toy. Not empty.
	Name     string   // The name claim, under scope profile. May be empty.
	Groups   []string // The groups claim.
}

// check reports all problems of the configuration.
func (c Config) check() error {
	problems := []error{checkIssuer(c.Issuer)}
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if len(c.Clients) == 0 {
		bad("clients: none given")
	}
	taken := map[string]bool{} // Subjects, of users and of services: two who share one would be the same to everybody.
	ids := map[string]bool{}
	for i, cl := range c.Clients {
		if cl.ID == "" || ids[cl.ID] {
			bad("clients[%d]: id %q is empty or taken", i, cl.ID)
		}
		ids[cl.ID] = true
		if cl.Service {
			taken[cl.ID] = true
		}
		if err := cl.check(c.ServiceAudience); err != nil {
			bad("clients[%d]: %w", i, err)
		}
	}
	names := map[string]bool{}
	for i, u := range c.Users {
		// The library seals "token id:subject" into an opaque access token and
		// takes it apart at the colon.
		if u.Subject == "" || taken[u.Subject] || strings.Contains(u.Subject, ":") {
			bad("users[%d]: subject %q is empty, taken or has a colon", i, u.Subject)
		}
		taken[u.Subject] = true
		if u.Username == "" || names[u.Username] {
			bad("users[%d]: username %q is empty or taken", i, u.Username)
		}
		names[u.Username] = true
		if u.Password == "" {
			bad("users[%d]: no password", i)
		}
	}
	return errors.Join(problems...)
}

func (cl Client) check(serviceAudience string) error {
	if cl.Service {
		if cl.Secret == "" || len(cl.RedirectURIs) > 0 || serviceAudience == "" {
			return errors.New("a service needs a secret and a service audience, and has no redirect URI")
		}
		return nil
	}
	if len(cl.RedirectURIs) == 0 {
		return errors.New("no redirect URI")
	}
	for _, raw := range cl.RedirectURIs {
		if u, err := url.Parse(raw); err != nil || u.Scheme == "" || u.Host == "" || u.Fragment != "" {
			return fmt.Errorf("redirect URI %q is not an absolute URL without fragment", raw)
		}
	}
	return nil
}

// checkIssuer holds the provider to loopback: passwords in the clear and plain
// HTTP must not be reachable from elsewhere. A name is refused, even localhost,
// for others decide where it leads.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil || !ip.IsLoopback() || issuer != "http://"+u.Host {
		return fmt.Errorf("issuer %q is not http://, a loopback IP address and a port", issuer)
	}
	return nil
}
