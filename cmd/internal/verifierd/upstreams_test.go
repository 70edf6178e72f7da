package verifierd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/cmd/internal/verifierd"
)

// validate checks a configuration with these upstreams.
func validate(t *testing.T, more string, sets ...string) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "verifier.yaml")
	text := "issuer: https://issuer.test\naudience: models\naudit: a.jsonl\nlisten: 127.0.0.1:9090\nops_listen: :9091\n" + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return verifierd.Validate(t.Context(), program.Options{Config: path, Sets: sets})
}

func TestUpstreams(t *testing.T) {
	if err := validate(t, `
assertions: {keys: keys.pem}
upstreams:
  - name: gpu
    api: openai
    urls: ["https://gpu-1.test", "https://gpu-2.test:9090"]
    health: /health
    health_every: 5s
    models: [small]
    header: X-Key
    template: "k={credential}"
    credential_file: /run/secrets/gpu
    headers: {X-Tenant: "{team}", X-Subject: "{sub}"}
    assertion: {on: true, header: X-Who, audience: gpus}
    tls: {ca: ca.pem, cert: c.pem, key: k.pem, server_name: gpu.test}
    http2: off
    connect_timeout: 1s
  - name: near
    url: http://127.0.0.2:9090
    models: ["*"]
    h2c: true
`); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	for want, text := range map[string]string{
		"upstreams: name at least one":    "",
		":7: upstreams[0].name":           "upstreams:\n  - {url: http://u, models: [m]}",
		":8: upstreams[1].name":           "upstreams:\n  - {name: u, url: http://u, models: [m]}\n  - {name: u, url: http://v, models: [n]}",
		"upstreams[0].urls[1]":            "upstreams:\n  - {name: u, urls: [http://u, file:///x], models: [m]}",
		"upstreams[0].tls.cert":           "upstreams:\n  - {name: u, url: https://u, models: [m], tls: {key: k}}",
		"upstreams[0].headers.Cookie":     "upstreams:\n  - {name: u, url: https://u, models: [m], headers: {Cookie: a}}",
		"upstreams[0].assertion.on":       "upstreams:\n  - {name: u, url: https://u, models: [m], assertion: {on: true}}",
		"upstreams[0].models[0]":          "upstreams:\n  - {name: u, url: https://u, models: [m*]}",
		"upstreams[0].credential_file":    "upstreams:\n  - {name: u, url: https://u, models: [m], credential: a, credential_file: b}",
		"there is no setting tls_version": "upstreams:\n  - {name: u, url: https://u, models: [m], tls_version: 1}",
	} {
		if err := validate(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nvalidate = %v, want %s", text, err, want)
		}
	}
}

// TestNoLoop: each call would come round until nothing is left.
func TestNoLoop(t *testing.T) {
	for url, own := range map[string]bool{
		"http://127.0.0.1:9090": true, "https://127.0.0.1:9090/x": true, "http://localhost:9090": true, "http://LOCALHOST.:9090": true, "http://0.0.0.0:9090": true,
		"http://[::]:9090": true, "http://127.0.0.1:9091": true, "http://127.0.0.9:9091": true, "http://[::1]:9091": true, "http://localhost:9091": true,
		"http://[::ffff:127.0.0.1]:9091": true,
		"http://127.0.0.1:9092":          false, "http://127.0.0.2:9090": false, "http://gpu.test:9090": false, "http://gpu.test": false, "http://10.0.0.1:9091": false,
	} {
		for _, text := range []string{"url: " + url, "urls: ['http://u', '" + url + "']"} {
			err := validate(t, "upstreams:\n  - name: u\n    models: [m]\n    "+text+"\n")
			if (err != nil) != own || own && !strings.Contains(err.Error(), "this verifier's own") {
				t.Errorf("%s: validate = %v, want own %v", text, err, own)
			}
		}
	}
	for listen, url := range map[string]string{"listen=:80": "http://localhost", "listen=0.0.0.0:443": "https://127.0.0.1/"} {
		if err := validate(t, "upstreams:\n  - {name: u, url: '"+url+"', models: [m]}\n", listen); err == nil {
			t.Errorf("%s behind %s is accepted", url, listen)
		}
	}
}
