package e2e

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourpass/hourpass/cmd/internal/toyidp"
	"github.com/hourpass/hourpass/cmd/internal/toymodel"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks returns the fenced blocks of a language.
func blocks(text, language string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

// mask hides what differs from one walk of the demo to the next.
func mask(text string) string {
	for _, m := range []struct{ pattern, with string }{
		{`/\S*/hourpass-dev-\d+`, "DIR"},
		{`127\.0\.0\.1:\d+`, "127.0.0.1:PORT"},
		{`hpk_[0-9A-Za-z]{16}_`, "hpk_ID_"},
		{`"client_id": "\w{16}"`, `"client_id": "ID"`},
		{`toy:ada  \w{16}`, "toy:ada  ID"},
		{`exchange  deny  \w{16}  `, "exchange  deny  ID  "},
		{`"jti": "\w{26}"`, `"jti": "JTI"`},
		{`: \d{10}`, ": TIME"},
		{`of \d+ bytes`, "of N bytes"},
		{`in \d+ pieces`, "in N pieces"},
	} {
		text = regexp.MustCompile(m.pattern).ReplaceAllString(text, m.with)
	}
	return text
}

// TestDemo: the walk goes as it must, and prints what the README shows.
func TestDemo(t *testing.T) {
	cmd := exec.Command("make", "--no-print-directory", "-s", "demo", "ARGS=--once")
	cmd.Dir = "../.."
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("make demo ARGS=--once: %v: %s%s", err, out, errs.String())
	}
	shown := blocks(readme(t), "text")[0]
	if diff := cmp.Diff(mask(shown), mask(string(out))); diff != "" {
		t.Errorf("the README shows another demo (-README +now):\n%s", diff)
	}
	if bytes.Contains(out, []byte("\x1b")) {
		t.Error("the output is coloured although it is piped")
	}
}

// TestDemoLines: the curl lines that the demo prints repeat it, from a shell.
func TestDemoLines(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+"/", "../hourpass-dev").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(filepath.Join(dir, "hourpass-dev"), "--data", filepath.Join(dir, "data"))
	var out logs
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	(&house{t: t}).await("the demo to have walked", func() bool { return strings.Contains(out.String(), "End with Ctrl-C") })

	script := "set -euo pipefail\n"
	for _, m := range regexp.MustCompile(`(?m)^   \$ (.*)$`).FindAllStringSubmatch(out.String(), -1) {
		script += m[1] + "\necho\n"
	}
	repeated, err := exec.Command("bash", "-c", script).CombinedOutput()
	if err != nil {
		t.Errorf("the demo's lines: %v\n%s\n%s", err, script, repeated)
	}
	for _, want := range []string{`"delta":{"content":`, "data: [DONE]", `"insufficient_scope"`, `"subject_token is missing`, `"invalid_client"`, `["key.create","allow","toy:ada"`, `["call","allow","toy:ada"`} {
		if !strings.Contains(string(repeated), want) {
			t.Errorf("the demo's lines print no %s:\n%s", want, repeated)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

// TestReadme runs what the README says, with the example configurations as they
// are shipped, but for the ports, which others may have taken.
func TestReadme(t *testing.T) {
	dir := t.TempDir()
	ports := []string{}
	addr := map[string]string{}
	for _, port := range []string{"8080", "8081", "9000", "9090", "9091", "8000"} {
		addr[port] = freeAddr(t)
		ports = append(ports, "127.0.0.1:"+port, addr[port])
	}
	elsewhere := strings.NewReplacer(ports...)
	examples := filepath.Join(dir, "deploy/examples")
	if err := os.MkdirAll(examples, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"issuer.yaml", "verifier.yaml"} {
		b, err := os.ReadFile("../../deploy/examples/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(examples, name), []byte(elsewhere.Replace(string(b))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Dir(binary(t, "hourpass"))
	if err := os.Symlink(bin, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}

	idp, err := toyidp.New(toyidp.Config{
		Issuer:  "http://" + addr["9000"],
		Clients: []toyidp.Client{{ID: "hourpass", Secret: "client-secret", RedirectURIs: []string{"http://" + addr["8080"] + "/callback/corp"}}},
		Users:   []toyidp.User{{Subject: "ada", Username: "ada", Password: "lovelace", Groups: []string{"faq-users"}}},
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	serveAt(t, addr["9000"], idp)
	serveAt(t, addr["8000"], toymodel.New(toymodel.Config{Models: []string{"faq-bot"}, Credential: "upstream-key"}))

	// The person's browser, which single sign-on knows.
	browser := "#!/bin/sh\nexec curl -sL -b '' --location-trusted -u ada:lovelace \"$1\" >/dev/null\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(browser), 0o755); err != nil {
		t.Fatal(err)
	}
	run := blocks(readme(t), "sh")
	if len(run) != 4 || !strings.Contains(run[0], "make demo") {
		t.Fatalf("the README has %d blocks to run", len(run))
	}
	script := "set -euo pipefail\nmake() { :; }\ntrap 'kill $(jobs -p); wait' EXIT\n"
	for i, block := range run[1:] {
		script += elsewhere.Replace(block) + "\n"
		for _, ops := range [][]string{{addr["8081"]}, {addr["9091"]}, nil}[i] {
			script += fmt.Sprintf("curl -s --retry 60 --retry-delay 1 --retry-all-errors -f -o /dev/null http://%s/readyz\n", ops)
		}
	}
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME=", "PATH="+dir+":"+os.Getenv("PATH"), "CLIENT_SECRET=client-secret", "UPSTREAM_KEY=upstream-key")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"chat.completion"`) {
		t.Errorf("the README's commands: %v\n%s\n%s", err, script, out)
	}
	for what, secret := range map[string]string{"client secret": "client-secret\"", "upstream's key": "upstream-key"} {
		if strings.Contains(string(out), secret) {
			t.Errorf("the output holds the %s", what)
		}
	}
}

func serveAt(t *testing.T, addr string, h http.Handler) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	_ = srv.Listener.Close() // It is to listen elsewhere.
	srv.Listener = listenAt(t, addr)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelInfo)
	srv.Start()
	t.Cleanup(func() {
		_ = srv.Listener.Close() // Or whoever is cut off comes again.
		srv.CloseClientConnections()
		srv.Close()
	})
}
