package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
)

// TestConformanceIsTested: each test that docs/conformance.md names is there, and
// each clause names one or says in bold why there is none.
func TestConformanceIsTested(t *testing.T) {
	doc, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([^`]+)`")
	clauses, standards := 0, 0
	for line := range strings.Lines(string(doc)) {
		if strings.HasPrefix(line, "## RFC") {
			standards++
		}
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| § ") {
			continue
		}
		clauses++
		if len(cells) != 4 {
			t.Errorf("a row of %d cells: %s", len(cells), line)
			continue
		}
		folder, tests := "cmd/e2e", 0
		for _, name := range named.FindAllStringSubmatch(cells[3], -1) {
			if !strings.HasPrefix(name[1], "Test") {
				folder = name[1]
				continue
			}
			tests++
			if !slices.Contains(testsIn(t, folder), name[1]) {
				t.Errorf("%s has no %s: %s", folder, name[1], line)
			}
		}
		if tests == 0 && !strings.Contains(cells[2], "**not done: ") && !strings.Contains(cells[2], "**does not apply: ") {
			t.Errorf("neither a test nor a reason: %s", line)
		}
	}
	if clauses < 100 || standards != 13 {
		t.Errorf("read %d clauses of %d standards", clauses, standards)
	}
}

// testsIn are the names of the tests of a folder of this module.
func testsIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
			names = append(names, string(m[1]))
		}
	}
	return names
}

// TestTokenAnswerHeaders: answers with tokens are kept by nobody (RFC 6749,
// section 5.1), and neither are refusals.
func TestTokenAnswerHeaders(t *testing.T) {
	h := startHouse(t)
	k := wielded{key: h.makeKey(nil, time.Hour)}
	for want, form := range map[int]url.Values{
		http.StatusOK:         exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)),
		http.StatusBadRequest: exchangeForm("x"),
	} {
		res, err := http.DefaultTransport.RoundTrip(h.clientRequest("/token", inHeader, k, form))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		for name, value := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"} {
			if got := res.Header.Get(name); got != value || res.StatusCode != want {
				t.Errorf("%s: %s is %q, want %q", res.Status, name, got, value)
			}
		}
	}
}

// TestMetadata: what the metadata names is there (RFC 8414), in both places.
func TestMetadata(t *testing.T) {
	h := startHouse(t)
	status, doc := h.send(h.request(http.MethodGet, "/.well-known/oauth-authorization-server", "", ""))
	_, same := h.send(h.request(http.MethodGet, "/.well-known/openid-configuration", "", ""))
	var m map[string]any
	if err := json.Unmarshal(doc, &m); err != nil || status != http.StatusOK || string(doc) != string(same) {
		t.Fatalf("%d %s, and %s", status, doc, same)
	}
	if m["issuer"] != h.issuer || m["authorization_response_iss_parameter_supported"] != true {
		t.Errorf("the metadata is %s", doc)
	}
	list := func(name string) (texts []string) {
		all, _ := m[name].([]any)
		for _, v := range all {
			texts = append(texts, v.(string))
		}
		return texts
	}
	for name, v := range m {
		if all, isList := v.([]any); isList && len(all) == 0 {
			t.Errorf("%s is an empty list", name)
		}
		if text, _ := v.(string); strings.HasSuffix(name, "_endpoint") || name == "jwks_uri" {
			path := strings.TrimPrefix(text, h.issuer)
			method := map[bool]string{true: http.MethodGet, false: http.MethodPost}[name == "jwks_uri" || name == "authorization_endpoint"]
			if status, body := h.send(h.request(method, path, "application/x-www-form-urlencoded", "")); status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
				t.Errorf("%s is %s, which answers %d %s", name, text, status, body)
			}
		}
	}
	// What it supports is more than an unknown word to the endpoint.
	k := h.makeKey(nil, time.Hour)
	for _, grant := range list("grant_types_supported") {
		_, body := h.post("/token", k.Secret, url.Values{"grant_type": {grant}})
		if e := decodeError(t, body); e.Code == "unsupported_grant_type" {
			t.Errorf("the grant %s: %s", grant, body)
		}
	}
	for _, name := range []string{"token_endpoint_auth_methods_supported", "revocation_endpoint_auth_methods_supported", "introspection_endpoint_auth_methods_supported"} {
		for _, method := range []string{inHeader, inForm, bySign} {
			if !slices.Contains(list(name), method) {
				t.Errorf("%s lacks %s", name, method)
			}
		}
		if algorithms := list(strings.Replace(name, "methods", "signing_alg_values", 1)); !slices.Equal(algorithms, []string{"ES256", "EdDSA", "RS256"}) {
			t.Errorf("the algorithms of %s are %v", name, algorithms)
		}
	}
	if !slices.Equal(list("response_types_supported"), []string{"code"}) || !slices.Equal(list("code_challenge_methods_supported"), []string{"S256"}) {
		t.Errorf("the metadata is %s", doc)
	}
	res, err := http.Get(h.issuer + "/.well-known/oauth-authorization-server")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("the metadata's headers are %v", res.Header)
	}
	if res, _ := h.authorizePage(url.Values{}, nil); res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("scripts of other sites may read /authorize")
	}
}

// TestCodeVerifiers: a verifier is of the form that RFC 7636, section 4.1, gives
// it, whatever its challenge.
func TestCodeVerifiers(t *testing.T) {
	h := startHouse(t)
	for why, row := range map[string]struct {
		verifier string
		good     bool
	}{
		"43 characters":            {strings.Repeat("a", 43), true},
		"128 characters":           {strings.Repeat("a", 128), true},
		"all that are allowed":     {"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", true},
		"42 characters":            {strings.Repeat("a", 42), false},
		"129 characters":           {strings.Repeat("a", 129), false},
		"a plus sign":              {strings.Repeat("a", 43) + "+", false},
		"a plus sign in the midst": {strings.Repeat("a", 43) + "+" + "a", false},
		"a space":                  {" " + strings.Repeat("a", 43), false},
		"a letter beyond ASCII":    {strings.Repeat("a", 43) + "é", false},
		"empty":                    {"", false},
	} {
		back, err := h.browserTo(h.authorizeURL(row.verifier), "ada", "lovelace")
		if err != nil {
			t.Fatal(err)
		}
		form := url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"hourpass-cli"}, "code": {back.Query().Get("code")},
			"redirect_uri": {cliRedirect}, "code_verifier": {row.verifier},
		}
		if row.good {
			h.mustPost("/token", "", form, &login{})
			continue
		}
		h.refused("a verifier of "+why, "", form, "invalid_grant", "code")
	}
}

// TestBearerElsewhere: the login's token counts in the Authorization header
// alone (RFC 6750, section 2), and who sends none is told of the scheme only.
func TestBearerElsewhere(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	ask := func(method, path, media, body string, headers ...string) *http.Response {
		t.Helper()
		req := h.request(method, path, media, body)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Add(headers[i], headers[i+1])
		}
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	if res := ask(http.MethodGet, "/v1/me", "", "", "Authorization", "bearer "+l.Access); res.StatusCode != http.StatusOK {
		t.Errorf("where it belongs: %s", res.Status)
	}
	for why, res := range map[string]*http.Response{
		"in a query":         ask(http.MethodGet, "/v1/me?access_token="+l.Access, "", ""),
		"in a form":          ask(http.MethodPost, "/v1/me/logout", "application/x-www-form-urlencoded", "access_token="+l.Access),
		"in another header":  ask(http.MethodGet, "/v1/me", "", "", "X-Api-Key", l.Access),
		"in a cookie":        ask(http.MethodGet, "/v1/me", "", "", "Cookie", "access_token="+l.Access),
		"without its scheme": ask(http.MethodGet, "/v1/me", "", "", "Authorization", l.Access),
		"as a password":      ask(http.MethodGet, "/v1/me", "", "", "Authorization", "Basic "+l.Access),
		"twice":              ask(http.MethodGet, "/v1/me", "", "", "Authorization", "Bearer "+l.Access, "Authorization", "Bearer "+l.Access),
	} {
		if res.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: %s, %q", why, res.Status, res.Header.Get("WWW-Authenticate"))
		}
	}
	if res := ask(http.MethodGet, "/v1/me", "", ""); res.Header.Get("WWW-Authenticate") != `Bearer realm="Hourpass"` {
		t.Errorf("nothing: %q", res.Header.Get("WWW-Authenticate"))
	}
	if res := ask(http.MethodGet, "/v1/me", "", "", "Authorization", "Bearer x"); res.Header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
		t.Errorf("a bad one: %q", res.Header.Get("WWW-Authenticate"))
	}
}

// TestLoginsEnd: a login's own token opens the API for an hour, and never longer
// than the login lasts.
func TestLoginsEnd(t *testing.T) {
	for edit, lasts := range map[string]time.Duration{"": time.Hour, "session_lifetime: 30m\n": 30 * time.Minute} {
		h := startHouse(t, "rates:", edit+"rates:")
		l := h.logIn("ada", "lovelace")
		h.pass(lasts - time.Minute)
		if status, body := h.api(http.MethodGet, "/v1/me", l.Access, ""); status != http.StatusOK {
			t.Errorf("a minute before %v are over: %d %s", lasts, status, body)
		}
		h.pass(time.Minute)
		if status, body := h.api(http.MethodGet, "/v1/me", l.Access, ""); status != http.StatusUnauthorized {
			t.Errorf("after %v: %d %s", lasts, status, body)
		}
	}
}

// TestPlainHTTPIsForLoopback: an issuer that others reach is reached by TLS.
func TestPlainHTTPIsForLoopback(t *testing.T) {
	for _, address := range []string{"http://issuer.example", "http://10.0.0.1:8080", "http://localhost.evil.example", "ftp://127.0.0.1", "https://issuer.example/path", "https://issuer.example?x=y", "https://u@issuer.example"} {
		h := newHouse(t)
		h.writeConfigs([]string{"url: " + h.issuer, "url: " + address})
		if err := issuerd.Init(t.Context(), h.options("issuer.yaml")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := issuerd.Run(ctx, h.options("issuer.yaml")); err == nil || !strings.Contains(err.Error(), "want https://") {
			t.Errorf("an issuer that is called %s: %v", address, err)
		}
		cancel()
	}
}
