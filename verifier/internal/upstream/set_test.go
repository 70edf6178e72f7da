package upstream_test

import (
	"strings"
	"testing"

	"github.com/hourpass/hourpass/verifier/internal/assertion"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

func TestServing(t *testing.T) {
	config := func(name string, models ...string) upstream.Config {
		return upstream.Config{Name: name, URL: "http://" + name, Models: models}
	}
	set, err := upstream.NewSet([]upstream.Config{
		config("all", "*"), config("org", "org/*"), config("llama", "org/llama-*"), config("one", "org/llama-70b", "small"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{
		"small": "one", "org/llama-70b": "one", "org/llama-8b": "llama", "org/x": "org", "org/": "all", "Small": "all", "org/llama": "org", "big": "all",
	} {
		if to, name := set.Serving(model); to == nil || to.Name != want || name != model {
			t.Errorf("Serving(%q) = %v, %q, want %s", model, to, name, want)
		}
	}
	set, err = upstream.NewSet([]upstream.Config{config("one", "small")})
	if err != nil {
		t.Fatal(err)
	}
	if to, name := set.Serving("big"); to != nil || name != "big" {
		t.Errorf("Serving(big) = %v, %q, want nobody", to, name)
	}
	for name, list := range map[string][]upstream.Config{
		"a model of two":   {config("a", "m"), config("b", "m")},
		"a pattern of two": {config("a", "m/*"), config("b", "m/*")},
		"everything twice": {config("a", "*"), config("b", "*")},
		"a name of two":    {config("a", "m"), config("a", "n")},
	} {
		if _, err := upstream.NewSet(list); err == nil || !strings.Contains(err.Error(), `upstream "`) {
			t.Errorf("%s: NewSet = %v", name, err)
		}
	}
}

// TestCheck spoils one thing a row, and wants it told by its setting.
func TestCheck(t *testing.T) {
	good := func() upstream.Config {
		return upstream.Config{Name: "u", URL: "https://u", Models: []string{"m"}}
	}
	check := func(c upstream.Config) (settings []string) {
		c.Check(func(setting, problem string) {
			settings = append(settings, setting)
			if problem == "" || strings.Contains(problem, "hunter2") {
				t.Errorf("%s: %q", setting, problem)
			}
		})
		return settings
	}
	if got := check(good()); got != nil {
		t.Fatalf("a good one: %v", got)
	}
	type config = upstream.Config
	for _, row := range []struct {
		setting string
		spoil   func(*config)
	}{
		{"name", func(c *config) { c.Name = "" }},
		{"api", func(c *config) { c.API = "soap" }},
		{"open[0]", func(c *config) { c.Open = []string{"POST /v1/chat/completions"} }},
		{"url", func(c *config) { c.URL = "" }},
		{"url", func(c *config) { c.URL = "https://user:hunter2@u" }},
		{"urls", func(c *config) { c.URLs = []string{"https://v"} }},
		{"urls[1]", func(c *config) { c.URL, c.URLs = "", []string{"https://v", "file:///etc"} }},
		{"urls", func(c *config) { c.URL, c.URLs = "", many(257) }},
		{"url", func(c *config) { c.URL, c.CA = "http://u", "ca.pem" }},
		{"url", func(c *config) { c.URL, c.ServerName = "http://u", "u" }},
		{"url", func(c *config) { c.URL, c.Cert, c.Key = "http://u", "c", "k" }},
		{"url", func(c *config) { c.URL, c.NoHTTP2 = "http://u", true }},
		{"url", func(c *config) { c.H2C = true }},
		{"tls.cert", func(c *config) { c.Cert = "c" }},
		{"tls.cert", func(c *config) { c.Key = "k" }},
		{"health", func(c *config) { c.Health = "health" }},
		{"health", func(c *config) { c.Health = "/a/../b" }},
		{"health", func(c *config) { c.Health = "/a?b" }},
		{"health_every", func(c *config) { c.HealthEvery = -1 }},
		{"connect_timeout", func(c *config) { c.ConnectTimeout = -1 }},
		{"response_timeout", func(c *config) { c.ResponseTimeout = -1 }},
		{"idle_timeout", func(c *config) { c.IdleTimeout = -1 }},
		{"models", func(c *config) { c.Models = nil }},
		{"models[1]", func(c *config) { c.Models = []string{"m", "m*"} }},
		{"credential", func(c *config) { c.Credential = "hunter2\n" }},
		{"credential", func(c *config) { c.Credential, c.Template = "a hunter2", "Bearer {credential}" }},
		{"credential_file", func(c *config) { c.Credential, c.CredentialFile = "hunter2", "f" }},
		{"header", func(c *config) { c.Header = "Idempotency-Key" }},
		{"header", func(c *config) { c.Header = "x-idempotency-key" }},
		{"header", func(c *config) { c.Header = "Sec-WebSocket-Protocol" }},
		{"template", func(c *config) { c.Template = "Bearer" }},
		{"template", func(c *config) { c.Template = "{credential}{credential}" }},
		{"template", func(c *config) { c.Template = "{credential}\r\nA: b" }},
		{"headers", func(c *config) { c.Headers = map[string]string{"X Y": "a"} }},
		{"headers", func(c *config) { c.Headers = map[string]string{"X_Y": "a"} }},
		{"headers", func(c *config) {
			c.Headers = map[string]string{}
			for _, name := range many(33) {
				c.Headers["X-"+name[len("https://u"):]] = "a"
			}
		}},
		{"headers.x-a", func(c *config) { c.Headers = map[string]string{"X-A": "a", "x-a": "b"} }},
		{"headers.X-Key", func(c *config) { c.Headers, c.Header = map[string]string{"X-Key": "a"}, "X-Key" }},
		{"headers.x-hourpass-assertion", func(c *config) {
			c.Headers, c.Assertions = map[string]string{"x-hourpass-assertion": "a"}, new(assertion.Keys)
		}},
		{"assertion.header", func(c *config) { c.Assertions, c.AssertionHeader = new(assertion.Keys), "cookie" }},
		{"assertion.header", func(c *config) { c.Assertions, c.AssertionHeader, c.Header = new(assertion.Keys), "X-Key", "X-Key" }},
		{"assertion.header", func(c *config) { c.Assertions, c.AssertionHeader = new(assertion.Keys), "a b" }},
	} {
		c := good()
		row.spoil(&c)
		if got := check(c); len(got) != 1 || got[0] != row.setting {
			t.Errorf("%s: problems with %v", row.setting, got)
		}
	}
	c := good()
	c.URL, c.URLs = "", []string{"https://V/", "https://v"}
	if got := check(c); len(got) != 1 || !strings.HasPrefix(got[0], "urls[") {
		t.Errorf("a URL twice: problems with %v", got)
	}
	c = good()
	c.URL, c.H2C, c.NoHTTP2 = "http://u", true, true
	if got := check(c); len(got) == 0 {
		t.Error("h2c without HTTP/2 is accepted")
	}
	for _, name := range []string{
		"Authorization", "x-api-key", "API-Key", "X-Goog-Api-Key", "Cookie", "Set-Cookie", "Host", "Content-Length", "Content-Type", "Content-Language", "Transfer-Encoding",
		"Connection", "TE", "Trailer", "Upgrade", "Keep-Alive", "Proxy-Authorization", "Proxy-X", "Forwarded", "X-Forwarded-For", "X-Forwarded-User", "User-Agent",
		"Accept", "Accept-Encoding", "X-Request-Id", "Traceparent", "Expect", "Range", "If-Match", "Idempotency-Key", "X-Idempotency-Key", "Sec-Fetch-Site",
		"X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL", "HTTP2-Settings",
	} {
		c := good()
		c.Headers = map[string]string{name: "a"}
		if got := check(c); len(got) != 1 || got[0] != "headers."+name {
			t.Errorf("a header %s: problems with %v", name, got)
		}
	}
	for _, value := range []string{"", " a", "a ", "a\r\nb: c", "a\x00", "é", "{", "}", "{}", "{sub", "sub}", "{Sub}", "{email}", "{{sub}}", "{sub}}", "{model}"} {
		c := good()
		c.Headers = map[string]string{"X-A": value}
		if got := check(c); len(got) != 1 || got[0] != "headers.X-A" {
			t.Errorf("a header's value %q: problems with %v", value, got)
		}
	}
}

func many(n int) (urls []string) {
	for i := range n {
		urls = append(urls, "https://u"+strings.Repeat("a", i/26)+string(rune('a'+i%26)))
	}
	return urls
}
