package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// installed is where a program is that scripts/test-deps installs.
func installed(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	t.Fatalf("%s is missing: run scripts/test-deps", name)
	return ""
}

// guarded is a model server behind a real proxy that asks the verifier.
type guarded struct {
	*lone
	front string // The proxy's host and port.

	mu      sync.Mutex
	arrived []*http.Request
}

// guard starts a verifier, and the proxy by its configuration in deploy/, with
// the test's addresses in place of the file's.
func guard(t *testing.T, headers string, proxy func(config string) (program string, args []string)) *guarded {
	t.Helper()
	g := &guarded{lone: newLone(t), front: freeAddr(t)}
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.arrived = append(g.arrived, r)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(model.Close)
	asks := freeAddr(t)
	g.start(fmt.Sprintf(`
forward_auth: {listen: %q, upstream: model, trusted: [127.0.0.0/8], headers: %s}
upstreams:
  - {name: model, url: %q, models: [small, "team/*"]}
`, asks, headers, model.URL))
	name, file := "nginx", "../../deploy/proxies/nginx.conf"
	if headers == "forwarded" {
		name, file = "caddy", "../../deploy/proxies/Caddyfile"
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	config := g.write(name+".conf", []byte(strings.NewReplacer(
		"http://:8443", "http://:"+g.front[strings.LastIndexByte(g.front, ':')+1:], "127.0.0.1:8443", g.front, "127.0.0.1:8000", strings.TrimPrefix(model.URL, "http://"), "127.0.0.1:9092", asks,
	).Replace(string(text))))
	program, args := proxy(config)
	run(t, "http://"+g.front, program, []string{"HOME=" + g.dir, "XDG_DATA_HOME=" + g.dir}, args...)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.arrived = nil
	return g
}

// raw sends a request as it stands and returns the status.
func (g *guarded) raw(request string) int {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.front)
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		g.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	if res.Header.Get("Location") != "" {
		g.t.Errorf("%q is redirected", request)
	}
	return res.StatusCode
}

// TestProxiesInFront: real proxies forward what the verifier allows, and nothing
// else, however it is dressed.
func TestProxiesInFront(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *guarded{
		"nginx": func(t *testing.T) *guarded {
			return guard(t, "original", func(config string) (string, []string) {
				dir := filepath.Dir(config)
				return installed(t, "nginx"), []string{
					"-p", dir, "-c", config, "-e", filepath.Join(dir, "error.log"), "-g", "daemon off; pid " + filepath.Join(dir, "nginx.pid") + ";",
				}
			})
		},
		"caddy": func(t *testing.T) *guarded {
			return guard(t, "forwarded", func(config string) (string, []string) {
				return installed(t, "caddy"), []string{"run", "--config", config, "--adapter", "caddyfile"}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t)
			whole, part := g.token("chat:small chat:team/*"), g.token("chat:small")
			request := func(line, bearer string, headers ...string) string {
				const body = `{"model":"small"}`
				r := line + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\nConnection: close\r\n"
				if bearer != "" {
					r += "Authorization: Bearer " + bearer + "\r\n"
				}
				for _, h := range headers {
					r += h + "\r\n"
				}
				return r + "\r\n" + body
			}
			const chat = "POST /v1/chat/completions"
			spoofs := []string{
				"X-Hourpass-Subject: corp:root", "X-Hourpass-Key: mine", "X-Hourpass-Team: root", "X-Original-URI: /v1/models", "X-Original-Method: GET",
				"X-Forwarded-Uri: /v1/models", "X-Forwarded-Method: GET", "X-Forwarded-For: 203.0.113.1", "X_Hourpass_Subject: corp:root",
			}
			if status := g.raw(request(chat, whole, spoofs...)); status != 200 {
				t.Fatalf("a good call: %d", status)
			}
			g.mu.Lock()
			if len(g.arrived) != 1 || g.arrived[0].RequestURI != "/v1/chat/completions" || g.arrived[0].Method != "POST" {
				t.Fatalf("%d calls arrived: %+v", len(g.arrived), g.arrived)
			}
			h := g.arrived[0].Header
			g.arrived = nil
			g.mu.Unlock()
			if h.Get("Authorization") != "Bearer upstream-key" || h.Get("X-Hourpass-Subject") != "corp%3Aada" && h.Get("X-Hourpass-Subject") != "corp:ada" ||
				h.Get("X-Hourpass-Key") != "key0123456789abc" || len(h["X-Hourpass-Subject"]) != 1 || strings.Contains(fmt.Sprint(h), "root") {
				t.Errorf("headers %v", h)
			}

			for what, r := range map[string]string{
				"no token":                  request(chat, ""),
				"junk for a token":          request(chat, "junk"),
				"a token of some models":    request(chat, part),
				"another action":            request("POST /v1/embeddings", whole),
				"no route":                  request("POST /v1/files", whole),
				"another method":            request("DELETE /v1/chat/completions", whole),
				"dot segments":              request("POST /v1/models/../chat/completions", whole),
				"encoded dot segments":      request("POST /v1/models/%2e%2e/chat/completions", whole),
				"an encoded slash":          request("POST /v1/chat%2Fcompletions", whole),
				"an encoded letter":         request("POST /v1/ch%61t/completions", whole),
				"two slashes":               request("POST //v1/chat/completions", whole),
				"two slashes within":        request("POST /v1//chat/completions", whole),
				"a semicolon":               request("POST /v1/chat/completions;a=b", whole),
				"an encoded hash":           request("POST /v1/chat/completions%23", whole),
				"a hash":                    request("POST /v1/chat/completions#x", whole),
				"a backslash":               request(`POST /v1\chat/completions`, whole),
				"a query":                   request("POST /v1/chat/completions?model=large", whole),
				"the absolute form":         request("POST http://x/v1/files", whole),
				"the door itself":           request("GET /authz", whole),
				"another's words for a URI": request("POST /v1/files", whole, "X-Original-URI: /v1/chat/completions", "X-Forwarded-Uri: /v1/chat/completions"),
				"and for a method":          request("DELETE /v1/chat/completions", whole, "X-Original-Method: POST", "X-Forwarded-Method: POST"),
				"two tokens":                request(chat, whole, "X-Api-Key: "+part),
			} {
				if status := g.raw(r); status >= 200 && status < 400 {
					t.Errorf("%s: %d", what, status)
				}
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			for _, r := range g.arrived {
				t.Errorf("%s %s arrived", r.Method, r.RequestURI)
			}
		})
	}
}

// TestHAProxyInFront: the client's address is HAProxy's word, not the client's.
func TestHAProxyInFront(t *testing.T) {
	l := newLone(t)
	l.start(fmt.Sprintf(`
trusted_proxies: [127.0.0.0/8]
upstreams:
  - {name: echo, url: %q, models: [small]}
`, echo(t).URL))
	text, err := os.ReadFile("../../deploy/proxies/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	front := freeAddr(t)
	config := l.write("haproxy.cfg", []byte(strings.NewReplacer("127.0.0.1:8443", front, "127.0.0.1:9090", strings.TrimPrefix(l.url, "http://")).Replace(string(text))))
	run(t, "http://"+front, installed(t, "haproxy"), nil, "-db", "-f", config)
	l.url = "http://" + front
	elsewhere := l.token("chat:small", func(c claims) { c["ip"] = []string{"203.0.113.0/24"} })
	here := l.token("chat:small", func(c claims) { c["ip"] = []string{"127.0.0.0/8"} })
	for _, row := range []struct {
		token  string
		header []string
		status int
	}{
		{here, nil, 200},
		{here, []string{"X-Forwarded-For", "203.0.113.9"}, 200},
		{elsewhere, []string{"X-Forwarded-For", "203.0.113.9"}, 403},
	} {
		if status, body := l.ask(row.token, "/v1/chat/completions", `{"model":"small"}`, row.header...); status != row.status {
			t.Errorf("%v: %d %s, want %d", row.header, status, body, row.status)
		}
	}
}
