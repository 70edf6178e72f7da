package reqtarget_test

import (
	"errors"
	"net/url"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/reqtarget"
)

func TestSplit(t *testing.T) {
	for _, row := range []struct{ in, path, query string }{
		{"/", "/", ""},
		{"/v1/chat/completions", "/v1/chat/completions", ""},
		{"/v1/models/org/llama-3.1:8b@x", "/v1/models/org/llama-3.1:8b@x", ""},
		{"/callback/corp?code=a%2Fb&state=x", "/callback/corp", "code=a%2Fb&state=x"},
		{"/a?b?c", "/a", "b?c"},
		{"/...", "/...", ""},
	} {
		if p, q, err := reqtarget.Split(row.in); err != nil || p != row.path || q != row.query {
			t.Errorf("Split(%q) = %q, %q, %v, want %q, %q", row.in, p, q, err, row.path, row.query)
		}
	}
	for why, bad := range map[string]string{
		"empty": "", "asterisk form": "*", "absolute form": "http://h/v1", "authority form": "h:443", "no slash": "v1",
		"dot segment": "/v1/./models", "dot-dot segment": "/v1/../admin", "dot-dot at the end": "/v1/..",
		"encoded dots": "/v1/%2e%2e/admin", "encoded slash": "/v1%2fmodels", "encoded slash, other case": "/v1%2Fmodels",
		"encoded letter": "/v1/ch%61t", "encoded NUL": "/v1/chat%00", "double encoding": "/v1/%252e%252e/admin",
		"empty segment": "/v1//models", "empty first segment": "//v1/models", "slash at the end": "/v1/models/",
		"backslash": `/v1\models`, "parameters": "/v1;a=b/models", "fragment": "/v1/models#x", "fragment in the query": "/v1?a#x",
		"space": "/v1/mod els", "tab": "/v1\tmodels", "not ASCII": "/v1/mod\u00e9ls", "NUL": "/v1\x00", "CR LF in the query": "/v1?a\r\nb",
		"semicolon in the query": "/v1?a=1;b=2", "backslash in the query": `/v1?a=\`, "long": "/" + strings.Repeat("a", reqtarget.MaxBytes),
	} {
		if p, q, err := reqtarget.Split(bad); !errors.Is(err, reqtarget.ErrNotCanonical) {
			t.Errorf("%s: Split(%q) = %q, %q, %v, want ErrNotCanonical", why, bad, p, q, err)
		}
	}
}

// FuzzSplit: no way in which routers and proxies clean or decode a path turns
// one that is taken into another.
func FuzzSplit(f *testing.F) {
	f.Add("/v1/chat/completions?a=b")
	f.Fuzz(func(t *testing.T, in string) {
		p, q, err := reqtarget.Split(in)
		if err != nil {
			return
		}
		u, err := url.ParseRequestURI(in)
		if err != nil || u.Path != p || u.RawQuery != q || u.EscapedPath() != p || u.Host != "" {
			t.Fatalf("Split(%q) = %q, %q; net/url reads %#v, %v", in, p, q, u, err)
		}
		if clean := path.Clean(p); clean != p {
			t.Fatalf("Split(%q) = %q, which cleans to %q", in, p, clean)
		}
		if decoded, err := url.PathUnescape(p); err != nil || decoded != p {
			t.Fatalf("Split(%q) = %q, which decodes to %q, %v", in, p, decoded, err)
		}
	})
}

func TestFuzzSeedsAreThere(t *testing.T) {
	if seeds, err := os.ReadDir("testdata/fuzz/FuzzSplit"); err != nil || len(seeds) == 0 {
		t.Errorf("no seeds: %v", err)
	}
}
