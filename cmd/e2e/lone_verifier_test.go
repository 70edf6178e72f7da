package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hourpass/hourpass/internal/audit"

	"github.com/klauspost/compress/zstd"
)

// echo is a model server that answers with what it was asked.
func echo(t *testing.T) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// ask makes a call and returns its answer.
func (l *lone) ask(bearer, path, body string, header ...string) (int, string) {
	l.t.Helper()
	req, err := http.NewRequest(http.MethodPost, l.url+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// TestLoneVerifier: the verifier's binary with a key set in a file, several
// issuers with ceilings, proxies in front, and bounds of parameters.
func TestLoneVerifier(t *testing.T) {
	l, lab := newLone(t), newLone(t)
	l.start(fmt.Sprintf(`
trusted_proxies: [127.0.0.0/8]
upstreams:
  - {name: echo, url: %q, models: [small, large]}
`, echo(t).URL))
	chat := func(bearer, body string, header ...string) (int, string) {
		t.Helper()
		return l.ask(bearer, "/v1/chat/completions", body, header...)
	}
	const small = `{"model":"small","messages":[]}`
	good := l.token("chat:small")
	if status, body := chat(good, small); status != 200 || body != small {
		t.Fatalf("%d %s", status, body)
	}
	if status, _ := chat(lab.token("chat:small"), small); status != 401 {
		t.Errorf("by somebody else's key: %d", status)
	}
	bounded := l.token("chat:small", func(c claims) { c["par"] = claims{"max_tokens": 16, "tools": 0, "clamp": true} })
	for body, want := range map[string]string{
		`{"model":"small","max_tokens":100}`: `{"model":"small","max_tokens":16}`,
		`{"model":"small","max_tokens":10}`:  `{"model":"small","max_tokens":10}`,
		`{"model":"small"}`:                  `{"model":"small","max_completion_tokens":16}`,
	} {
		if status, got := chat(bounded, body); status != 200 || got != want {
			t.Errorf("%s: %d %s, want %s", body, status, got, want)
		}
	}
	if status, got := chat(bounded, `{"model":"small","tools":[{}]}`); status != 403 || !strings.Contains(got, "parameter_not_allowed") {
		t.Errorf("tools: %d %s", status, got)
	}
	near := l.token("chat:small", func(c claims) { c["ip"] = []string{"203.0.113.0/24"} })
	for forwarded, want := range map[string]int{"203.0.113.9": 200, "198.51.100.1": 403, "203.0.113.9, 198.51.100.1": 403, "198.51.100.1, 203.0.113.9, 127.0.0.5": 200} {
		if status, _ := chat(near, small, "X-Forwarded-For", forwarded); status != want {
			t.Errorf("forwarded for %s: %d, want %d", forwarded, status, want)
		}
	}
	res, err := http.Get(l.ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	metrics, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`hourpass_calls_total{outcome="allow",reason="",route="POST /v1/chat/completions"}`,
		`hourpass_key_set_generation{issuer="https://issuer.test"} 1`, `hourpass_key_set_ready{issuer="https://issuer.test"} 1`,
		`hourpass_revocations_generation{issuer="https://issuer.test"} 1`,
	} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(string(metrics), "corp:ada") {
		t.Error("the metrics name a person")
	}
}

// TestSeveralIssuers: each with keys and a ceiling of its own.
func TestSeveralIssuers(t *testing.T) {
	l, lab := newLone(t), newLone(t)
	for name, keys := range map[string][]byte{"first.json": l.keySet(), "lab.json": lab.keySet()} {
		l.write(name, keys)
	}
	l.issuers = fmt.Sprintf(`
issuers:
  - {issuer: %q, audience: models, key_set: {file: %[2]s/first.json}, revocations: {off: true}}
  - {issuer: "https://lab.test", audience: lab, ceiling: ["chat:large"], key_set: {file: %[2]s/lab.json}, revocations: {off: true}}
`, loneIssuer, l.dir)
	l.start(fmt.Sprintf(`
upstreams:
  - {name: echo, url: %q, models: [small, large]}
`, echo(t).URL))
	ofLab := func(c claims) { c["iss"], c["aud"] = "https://lab.test", "lab" }
	for _, row := range []struct {
		name, token, model string
		status             int
	}{
		{"the first's", l.token("chat:small"), "small", 200},
		{"the lab's", lab.token("chat:small chat:large", ofLab), "large", 200},
		{"the lab's, above its ceiling", lab.token("chat:small chat:large", ofLab), "small", 403},
		{"the first's word, the lab's key", lab.token("chat:small"), "small", 401},
		{"the lab's word, the first's key", l.token("chat:large", ofLab), "large", 401},
	} {
		if status, body := l.ask(row.token, "/v1/chat/completions", `{"model":"`+row.model+`"}`); status != row.status {
			t.Errorf("%s: %d %s, want %d", row.name, status, body, row.status)
		}
	}
}

// TestVerifierSettings: what is wrong is told at once, each with its line.
func TestVerifierSettings(t *testing.T) {
	l := newLone(t)
	for _, row := range []struct{ name, settings, want string }{
		{"two ways to say who issues", "issuer: https://a\naudience: x\nissuers:\n  - {issuer: \"https://b\", audience: y}\n", "issuers"},
		{"an issuer that is none", "issuers:\n  - {issuer: b, audience: y}\n", "issuers[0].issuer"},
		{"a ceiling that is none", "issuers:\n  - {issuer: \"https://b\", audience: y, ceiling: [all]}\n", "issuers[0].ceiling"},
		{"keys from two places", "issuer: https://a\naudience: x\nkey_set: {file: k, url: \"https://k\"}\n", "key_set.file"},
		{"a proxy that is no network", "issuer: https://a\naudience: x\ntrusted_proxies: [all]\n", "trusted_proxies[0]"},
		{"a door for everybody", "issuer: https://a\naudience: x\nforward_auth: {listen: \":1\", upstream: u, headers: original}\n", "forward_auth.trusted"},
		{"a door of an unknown kind", "issuer: https://a\naudience: x\nforward_auth: {listen: \":1\", upstream: u, trusted: [10.0.0.0/8], headers: x}\n", "forward_auth.headers"},
		{"half a door", "issuer: https://a\naudience: x\next_authz: {upstream: u}\n", "ext_authz.listen"},
		{"an end of streams that is none", "issuer: https://a\naudience: x\nstreams: {at_expiry: stop}\n", "streams.at_expiry"},
	} {
		config := l.write("bad.yaml", []byte(row.settings+"audit: a.jsonl\nupstreams:\n  - {name: u, url: \"http://u\", models: [m]}\n"))
		out, err := exec.Command(binary(t, "hourpass-verifier"), "validate", "--config", config).CombinedOutput()
		if err == nil || !strings.Contains(string(out), filepath.Base(config)) || !strings.Contains(string(out), row.want) {
			t.Errorf("%s: %v, %s, want %s", row.name, err, out, row.want)
		}
	}
}

// TestUnencryptedHTTP2: h2c by choice, and HTTP/1.1 beside it.
func TestUnencryptedHTTP2(t *testing.T) {
	for _, on := range []bool{true, false} {
		l := newLone(t)
		l.start(fmt.Sprintf(`
h2c: %v
upstreams:
  - {name: echo, url: %q, models: [small]}
`, on, echo(t).URL))
		only2 := &http.Transport{Protocols: new(http.Protocols)}
		only2.Protocols.SetUnencryptedHTTP2(true)
		for _, client := range []*http.Client{http.DefaultClient, {Transport: only2}} {
			req, err := http.NewRequest(http.MethodPost, l.url+"/v1/chat/completions", strings.NewReader(`{"model":"small"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+l.token("chat:small"))
			req.Header.Set("Content-Type", "application/json")
			res, err := client.Do(req)
			two := client != http.DefaultClient
			if two && !on {
				if err == nil {
					t.Error("HTTP/2 without TLS is spoken though nobody chose it")
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != 200 || (res.ProtoMajor == 2) != two {
				t.Errorf("%s: %s", res.Proto, res.Status)
			}
		}
	}
}

// TestFormsAndCodings: what arrives is a form of ours, and plain JSON, whatever
// the client sent.
func TestFormsAndCodings(t *testing.T) {
	arrived := make(chan *http.Request, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(8 << 20); err != nil && r.Header.Get("Content-Type") != "application/json" {
			t.Error(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(text))
		arrived <- r
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(srv.Close)
	l := newLone(t)
	l.start(fmt.Sprintf("upstreams:\n  - {name: ears, url: %q, models: [whisper, large]}\n", srv.URL))
	bearer := l.token("audio:whisper chat:large")

	sound := bytes.Repeat([]byte("sound"), 500_000) // More than stays in memory.
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("model", "whisper")
	file, err := w.CreateFormFile("file", "a.wav")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = file.Write(sound)
	_ = w.Close()
	status, body := l.ask(bearer, "/v1/audio/transcriptions", form.String(), "Content-Type", w.FormDataContentType())
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	r := <-arrived
	if got := r.MultipartForm.Value["model"]; len(got) != 1 || got[0] != "whisper" || strings.Contains(r.Header.Get("Content-Type"), w.Boundary()) {
		t.Errorf("model %q in %s", got, r.Header.Get("Content-Type"))
	}
	part, err := r.MultipartForm.File["file"][0].Open()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, sound) {
		t.Errorf("%d bytes arrived of %d, %v", len(got), len(sound), err)
	}
	if status, body := l.ask(bearer, "/v1/audio/transcriptions", strings.ReplaceAll(form.String(), "whisper", "larger-"), "Content-Type", w.FormDataContentType()); status != 403 {
		t.Errorf("another model: %d %s", status, body)
	}

	const chat = `{"model":"large","messages":[]}`
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, chat)
	_ = z.Close()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for coding, coded := range map[string]string{"gzip": zipped.String(), "zstd": string(encoder.EncodeAll([]byte(chat), nil))} {
		if status, body := l.ask(bearer, "/v1/chat/completions", coded, "Content-Encoding", coding); status != 200 {
			t.Fatalf("%s: %d %s", coding, status, body)
		}
		r := <-arrived
		if text, _ := io.ReadAll(r.Body); string(text) != chat || r.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %q arrived, %v", coding, text, r.Header)
		}
	}
}

// TestSocketThroughTheBinary: a WebSocket lives until the verifier is stopped, its
// client hears why, and the record is there.
func TestSocketThroughTheBinary(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			_ = conn.Write(r.Context(), kind, message)
		}
	}))
	t.Cleanup(up.Close)
	l := newLone(t)
	l.start(fmt.Sprintf("upstreams:\n  - {name: voice, url: %q, models: [small]}\n", up.URL))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, l.url+"/v1/realtime?model=small", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + l.token("realtime:small")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	const message = `{"type":"session.update","session":{"voice":"ash"}}`
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(ctx); string(got) != message || err != nil {
		t.Fatalf("%s, %v", got, err)
	}
	if err := l.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(ctx); !strings.Contains(string(got), `"code":"restarting"`) || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("%v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		list, err := audit.Read(filepath.Join(l.dir, "audit-1.jsonl"))
		if err == nil && len(list) == 1 && list[0].Reason == "draining" && list[0].Model == "small" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("records %+v, %v", list, err)
		}
	}
}
