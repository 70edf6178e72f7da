package upstream

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Bounds of [Config].
const (
	maxReplicas = 256
	maxHeaders  = 32
)

// Check reports what is wrong with c, each problem with the name of its setting
// in the configuration file. It opens nothing: files are read when a [Set] is made.
func (c *Config) Check(report func(setting, problem string)) {
	want := func(ok bool, setting, problem string) {
		if !ok {
			report(setting, problem)
		}
	}
	want(c.Name != "", "name", "is required")
	family := route.Families[0]
	if c.API != "" {
		family = route.FamilyOf(c.API)
		want(family != nil, "api", "is none that the verifier speaks")
	}
	if family != nil {
		for i, name := range c.Open {
			want(family.HasAdmin(name), at("open", i), "is no route that rules such a server")
		}
	}
	c.checkURLs(want)
	c.checkModels(family, want)
	c.checkCredential(want)
	c.checkHeaders(family, want)
	want((c.Cert == "") == (c.Key == ""), "tls.cert", "want both a certificate and its key, or none")
	for setting, d := range map[string]int64{
		"connect_timeout": int64(c.ConnectTimeout), "response_timeout": int64(c.ResponseTimeout), "idle_timeout": int64(c.IdleTimeout), "health_every": int64(c.HealthEvery),
		"max_output": c.MaxOutput,
	} {
		want(d >= 0, setting, "must not be negative")
	}
}

func (c *Config) checkURLs(want func(bool, string, string)) {
	list := map[string]string{}
	if c.URL != "" {
		list["url"] = c.URL
	}
	for i, u := range c.URLs {
		list[at("urls", i)] = u
	}
	want(len(list) > 0, "url", "want a URL, or several as urls")
	want(c.URL == "" || len(c.URLs) == 0, "urls", "want url or urls, not both")
	want(len(c.URLs) <= maxReplicas, "urls", "want at most "+strconv.Itoa(maxReplicas)+" URLs")
	secured := c.CA != "" || c.Cert != "" || c.ServerName != "" || c.NoHTTP2
	seen := map[string]bool{}
	for setting, u := range list {
		base, err := parseBase(u)
		if err != nil {
			want(false, setting, err.Error())
			continue
		}
		want(!seen[base.String()], setting, "stands there twice: want each URL once")
		seen[base.String()] = true
		want(!secured || base.Scheme == "https", setting, "want an https URL, where there are settings for TLS")
		want(!c.H2C || base.Scheme == "http", setting, "want an http URL with h2c: over TLS, HTTP/2 is on already")
	}
	want(!c.H2C || !c.NoHTTP2, "h2c", "is HTTP/2, which http2 turns off")
	if c.Health != "" {
		path, query, err := reqtarget.Split(c.Health)
		want(err == nil && path == c.Health && query == "", "health", "want a canonical path without a query")
	}
}

// parseBase reads an upstream's URL. Errors quote nothing of it: it may hold a
// password where none belongs.
func parseBase(s string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimSuffix(s, "/"))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Hostname() == "" || base.User != nil ||
		base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("want an http or https URL without user, query and fragment")
	}
	if _, _, err := reqtarget.Split("/" + strings.TrimPrefix(base.EscapedPath(), "/")); err != nil {
		return nil, errors.New("want a URL whose path is canonical")
	}
	if strings.HasSuffix(base.Path, "/v1") {
		return nil, errors.New("want a URL without /v1, which is appended to it")
	}
	base.Host = strings.ToLower(base.Host)
	return base, nil
}

func (c *Config) checkModels(family *route.Family, want func(bool, string, string)) {
	want(len(c.Models) > 0, "models", `want model names, patterns such as llama-*, or "*"`)
	for i, m := range c.Models {
		_, err := token.ParseScope("chat:" + m)
		want(err == nil || m == everyModel, at("models", i), "is neither a model name nor a pattern")
		if err == nil && family != nil && !isPattern(m) && family.CanonicalName(m) != m {
			want(false, at("models", i), "is "+strconv.Quote(family.CanonicalName(m))+" to a server of its kind: scopes and configuration name it so")
		}
	}
}

func (c *Config) checkCredential(want func(bool, string, string)) {
	want(c.Credential == "" || c.CredentialFile == "", "credential_file", "want credential or credential_file, not both")
	want(isPrintable(c.Credential), "credential", "want printable ASCII")
	want(c.Template == "" || !strings.Contains(c.Credential, " "), "credential", "is a whole value, with a space in it, and so is template")
	name, template := c.shown()
	want(isHeaderName(name) && !isOurs(name), "header", "is no header that a credential can be in")
	want(isPrintable(template) && strings.Count(template, credentialPlace) == 1, "template", "want printable ASCII with "+credentialPlace+" in it, once")
}

func (c *Config) checkHeaders(family *route.Family, want func(bool, string, string)) {
	shown, _ := c.shown()
	taken := map[string]bool{shown: true}
	if c.Assertions != nil {
		name := http.CanonicalHeaderKey(c.AssertionHeader)
		if name == "" {
			name = defaultAssertionHeader
		}
		want(isHeaderName(name) && !isReserved(name, family) && !taken[name], "assertion.header", "is no header that an assertion can be in")
		taken[name] = true
	}
	want(len(c.Headers) <= maxHeaders, "headers", "want at most "+strconv.Itoa(maxHeaders))
	for _, given := range sortedNames(c.Headers) {
		name, setting := http.CanonicalHeaderKey(given), "headers."+given
		switch {
		case !isHeaderName(given):
			want(false, "headers", "want names of letters, digits and -")
		case isReserved(name, family):
			want(false, setting, "is a header that the verifier, its client or the connection has a use for")
		case taken[name]:
			want(false, setting, "stands there twice, or is that of the credential or the assertion")
		}
		taken[name] = true
		_, err := parseTemplate(c.Headers[given])
		want(err == nil, setting, "want printable ASCII, and of {…} only "+placeholderNames())
	}
}

// ours are headers that we or net/http set ourselves, give a meaning to, or take
// away: a credential in one of the last would silently not be sent, and with an
// Idempotency-Key net/http would send a call twice.
var ours = []string{
	"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade",
	"Accept", "Accept-Encoding", "Expect", "User-Agent", "X-Request-Id", "Traceparent", "Tracestate",
	"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
	"Idempotency-Key", "X-Idempotency-Key", "Http2-Settings",
}

// credentials are where one shows oneself: what stands there is a secret, which
// belongs into the setting for it.
var credentials = []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Ocp-Apim-Subscription-Key", "Cookie", "Set-Cookie", "Www-Authenticate"}

// meaningful begin the names of headers that change what a request is, or say
// where it came from.
var meaningful = []string{"Proxy-", "X-Forwarded-", "Sec-", "Content-", "If-", "Access-Control-", "X-Http-Method", "X-Original-", "X-Rewrite-"}

func isOurs(name string) bool { return slices.Contains(ours, name) || strings.HasPrefix(name, "Sec-") }

// isReserved tells whether a header of that canonical name is not for an operator
// to make up. One that a client may set would be believed to come from us.
func isReserved(name string, family *route.Family) bool {
	return isOurs(name) || slices.Contains(credentials, name) || name == "Range" ||
		slices.ContainsFunc(meaningful, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) ||
		family != nil && slices.Contains(family.Headers, name)
}

func isHeaderName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-'
	}) < 0
}

func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func isPattern(model string) bool { return strings.HasSuffix(model, "*") }

func at(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

func sortedNames(headers map[string]string) []string { return slices.Sorted(maps.Keys(headers)) }
