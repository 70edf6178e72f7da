package verifierd

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/verifier"
)

// upstreamSettings are as verifier.Upstream says.
type upstreamSettings struct {
	Name           string            `yaml:"name"`
	API            string            `yaml:"api"`
	Open           []string          `yaml:"open"`
	URL            string            `yaml:"url"`
	URLs           []string          `yaml:"urls"`
	Health         string            `yaml:"health"`
	HealthEvery    time.Duration     `yaml:"health_every"`
	Models         []string          `yaml:"models"`
	Header         string            `yaml:"header"`
	Template       string            `yaml:"template"`
	Credential     config.Secret     `yaml:"credential"`
	CredentialFile string            `yaml:"credential_file"`
	Headers        map[string]string `yaml:"headers"`
	Assertion      struct {
		// On sends an assertion with each call, signed with the key of assertions.
		On       bool   `yaml:"on"`
		Header   string `yaml:"header"`
		Audience string `yaml:"audience"`
	} `yaml:"assertion"`
	TLS struct {
		CA         string `yaml:"ca"`
		Cert       string `yaml:"cert"`
		Key        string `yaml:"key"`
		ServerName string `yaml:"server_name"`
	} `yaml:"tls"`
	HTTP2           *bool         `yaml:"http2"` // On unless false.
	H2C             bool          `yaml:"h2c"`
	ConnectTimeout  time.Duration `yaml:"connect_timeout"`
	ResponseTimeout time.Duration `yaml:"response_timeout"`
	IdleTimeout     time.Duration `yaml:"idle_timeout"`
	MaxOutput       int64         `yaml:"max_output"`
}

func (u *upstreamSettings) upstream() verifier.Upstream {
	return verifier.Upstream{
		Name: u.Name, API: u.API, Open: u.Open, URL: u.URL, URLs: u.URLs, Health: u.Health, HealthEvery: u.HealthEvery, Models: u.Models,
		Header: u.Header, Template: u.Template, Credential: u.Credential.Reveal(), CredentialFile: u.CredentialFile, Headers: u.Headers,
		AssertionHeader: u.Assertion.Header, AssertionAudience: u.Assertion.Audience,
		CA: u.TLS.CA, Cert: u.TLS.Cert, Key: u.TLS.Key, ServerName: u.TLS.ServerName,
		NoHTTP2: u.HTTP2 != nil && !*u.HTTP2, H2C: u.H2C,
		ConnectTimeout: u.ConnectTimeout, ResponseTimeout: u.ResponseTimeout, IdleTimeout: u.IdleTimeout,
		MaxOutput: u.MaxOutput,
	}
}

// checkUpstreams finds what is wrong with them, one by one and together.
func (c *settings) checkUpstreams(p *config.Problems) {
	p.Check(len(c.Upstreams) > 0, "upstreams", "name at least one")
	names := map[string]bool{}
	for i, u := range c.Upstreams {
		path := "upstreams[" + strconv.Itoa(i) + "]."
		p.Check(!names[u.Name] || u.Name == "", path+"name", "is another's already")
		names[u.Name] = true
		one := u.upstream()
		if u.Assertion.On {
			one.Assertions = new(verifier.AssertionKeys) // They are opened later.
			p.Check(c.Assertions.Keys != "", path+"assertion.on", "wants assertions.keys")
		}
		one.Check(func(setting, problem string) { p.Add(path+setting, "%s", problem) })
		p.Check(!c.isOwn(u.URL), path+"url", "is this verifier's own")
		for j, address := range u.URLs {
			p.Check(!c.isOwn(address), path+"urls["+strconv.Itoa(j)+"]", "is this verifier's own")
		}
	}
}

// isOwn tells whether a URL leads back to the verifier, as far as its own
// configuration shows: each call would come round until nothing is left.
func (c *settings) isOwn(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	to := u.Hostname()
	for _, listen := range []string{c.Listen, c.OpsListen} {
		host, listenPort, err := net.SplitHostPort(listen)
		if err != nil || port != listenPort {
			continue
		}
		if strings.EqualFold(host, to) || isAny(host) && isLocal(to) || isAny(to) && isLocal(host) || isName(to) && isLocal(host) || isName(host) && isLocal(to) {
			return true
		}
	}
	return false
}

// isAny tells whether a host stands for all addresses of this one.
func isAny(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}

func isName(host string) bool { return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") }

// isLocal tells whether a host is certainly this one.
func isLocal(host string) bool {
	ip, err := netip.ParseAddr(host)
	return isAny(host) || isName(host) || err == nil && ip.Unmap().IsLoopback()
}
