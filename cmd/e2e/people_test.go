package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"

	"github.com/hourpass/hourpass/internal/peers"
)

// binDir is where the programs are built, for all tests.
var binDir string

func TestMain(m *testing.M) {
	var err error
	if binDir, err = os.MkdirTemp("", "hourpass-bin-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(binDir) // It is in the folder for such things.
	os.Exit(code)
}

// build builds the programs, when the first test wants one.
var build = sync.OnceValue(func() error {
	out, err := exec.Command("go", "build", "-o", binDir+"/", "../hourpass", "../hourpass-issuer", "../hourpass-verifier").CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
})

func binary(t testing.TB, name string) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(binDir, name)
}

// person is somebody at a terminal, with a home of their own.
type person struct {
	t    *testing.T
	home string
}

func (p person) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary(p.t, "hourpass"), args...)
	cmd.Env = []string{"HOME=" + p.home, "PATH=" + os.Getenv("PATH")}
	return cmd
}

// types runs a command line and returns what it prints.
func (p person) types(args ...string) string {
	p.t.Helper()
	var out, errs bytes.Buffer
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("hourpass %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// failing runs a command line that must fail and returns what it complains of.
func (p person) failing(args ...string) string {
	p.t.Helper()
	var errs bytes.Buffer
	cmd := p.command(args...)
	cmd.Stderr = &errs
	if err := cmd.Run(); err == nil {
		p.t.Errorf("hourpass %s: it succeeds", strings.Join(args, " "))
	}
	return errs.String()
}

// logsIn runs "hourpass login" and walks the page that it prints in a browser.
func (p person) logsIn(issuer string, walk func(address string)) {
	p.t.Helper()
	if complaint, err := p.triesToLogIn(issuer, walk); err != nil {
		p.t.Fatalf("hourpass login: %v: %s", err, complaint)
	}
}

func (p person) triesToLogIn(issuer string, walk func(address string)) (complaint string, err error) {
	p.t.Helper()
	cmd := p.command("login", "--no-browser", "--issuer", issuer)
	var errs logs
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	address := regexp.MustCompile(`http\S+/authorize\S+`)
	(&house{t: p.t}).await("hourpass login to print an address", func() bool { return address.MatchString(errs.String()) })
	walk(address.FindString(errs.String()))
	err = cmd.Wait()
	return errs.String(), err
}

// startCorporate starts a house whose people log in at a certified identity
// provider that this project did not write.
func startCorporate(t *testing.T) (*house, *peers.IdP) {
	h := newHouse(t)
	idp := peers.StartOIDCProvider(t, peers.IdPConfig{
		Accounts: map[string][]string{"alice": {"faq-users", "staff"}, "bob": {"staff"}},
		Clients:  []peers.IdPClient{{ID: "hourpass", Secret: "corporate-secret", RedirectURIs: []string{h.issuer + "/callback/corp"}}},
	})
	h.startPrograms("issuer: "+h.idpURL, "issuer: "+idp.Issuer, "client_secret: toy-secret", "client_secret: corporate-secret")
	return h, idp
}

// TestEmployee is the path of an employee: log in through the company's single
// sign-on in a real browser, create a key, and point the OpenAI SDK at the
// verifier with nothing changed but base URL and key.
func TestEmployee(t *testing.T) {
	h, idp := startCorporate(t)
	alice := person{t, t.TempDir()}
	browser := peers.NewBrowser(t)

	if complaint := alice.failing("token"); !strings.Contains(complaint, "hourpass login") {
		t.Errorf("token before login complains %q", complaint)
	}
	alice.logsIn(h.issuer, func(address string) {
		page := browser.LoginOIDC(address, "alice", "http://127.0.0.1:")
		if !strings.Contains(page.Text, "You are logged in") {
			t.Errorf("the browser ends on %q", page.Text)
		}
	})
	if complaint := alice.failing("token"); !strings.Contains(complaint, "hourpass keys create") {
		t.Errorf("token before a key complains %q", complaint)
	}
	alice.types("keys", "create", "--grant", "faq", "--description", "laptop")
	if list := alice.types("keys", "list"); !strings.Contains(list, "laptop") || !strings.Contains(list, "active") || !strings.Contains(list, "never") {
		t.Errorf("keys list prints %q", list)
	}

	token := alice.types("token")
	client := h.openAI(token)
	answer, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
		Model: "faq-bot", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
	})
	if err != nil || answer.Choices[0].Message.Content == "" {
		t.Errorf("the SDK with her token: %v", err)
	}
	if narrow := alice.types("token", "--scope", "chat:faq-bot"); narrow == token {
		t.Error("token printed the same token twice")
	}
	if complaint := alice.failing("token", "--scope", "chat:hr-bot"); !strings.Contains(complaint, "invalid_scope") {
		t.Errorf("a scope that she has not complains %q", complaint)
	}
	alice.types("token") // A refusal has not cost her the login.

	// Two at once spend the login's refresh token one after the other.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if out, err := alice.command("token").CombinedOutput(); err != nil {
				t.Errorf("one of several at once: %v: %s", err, out)
			}
		})
	}
	wg.Wait()

	for _, file := range []string{"state.json"} {
		info, err := os.Stat(filepath.Join(alice.home, ".config/hourpass", file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v, want 0600", file, info.Mode(), err)
		}
	}

	// Whom the company no longer knows is out at the next token.
	idp.Disable("alice")
	if complaint := alice.failing("token"); !strings.Contains(complaint, "no longer vouches") {
		t.Errorf("a leaver's token complains %q", complaint)
	}

	bob := person{t, t.TempDir()}
	bob.logsIn(h.issuer, func(address string) { peers.NewBrowser(t).LoginOIDC(address, "bob", "http://127.0.0.1:") })
	if complaint := bob.failing("keys", "create", "--grant", "faq"); !strings.Contains(complaint, "may not hold") {
		t.Errorf("a grant that bob may not hold complains %q", complaint)
	}
}

// TestLoopbackLogin: the port that hourpass login waits on takes nothing but the
// login it began.
func TestLoopbackLogin(t *testing.T) {
	h := startHouse(t)
	ada := person{t, t.TempDir()}
	ada.logsIn(h.issuer, func(address string) {
		back, err := h.walkToy(address+"&provider=corp", "ada", "lovelace")
		if err != nil {
			t.Fatal(err)
		}
		q := back.Query()
		q.Set("state", "somebody else's")
		forged := *back
		forged.RawQuery = q.Encode()
		for why, bad := range map[string]string{"another state": forged.String(), "another path": "http://" + back.Host + "/"} {
			res, err := http.Get(bad)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode < 400 {
				t.Errorf("%s: %s", why, res.Status)
			}
		}
		res, err := http.Get(back.String())
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	})
	// Another issuer's answer in the browser (mix-up, RFC 9207).
	complaint, err := ada.triesToLogIn(h.issuer, func(address string) {
		back, err := h.walkToy(address+"&provider=corp", "ada", "lovelace")
		if err != nil {
			t.Fatal(err)
		}
		q := back.Query()
		q.Set("iss", "https://evil.example")
		back.RawQuery = q.Encode()
		res, err := http.Get(back.String())
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	})
	if err == nil || !strings.Contains(complaint, "without a login") {
		t.Errorf("an answer of another issuer: %v, %q", err, complaint)
	}
	otherName := strings.Replace(h.issuer, "127.0.0.1", "localhost", 1)
	if complaint := ada.failing("login", "--issuer", otherName); !strings.Contains(complaint, "calls itself") {
		t.Errorf("an issuer that calls itself otherwise complains %q", complaint)
	}
	if complaint := ada.failing("login", "--issuer", "http://example.com"); !strings.Contains(complaint, "https") {
		t.Errorf("an issuer without TLS complains %q", complaint)
	}
}

// TestBinaries: the servers as processes of their own: help, version, validate,
// a start in whichever order, and an end by SIGTERM with exit code 0.
func TestBinaries(t *testing.T) {
	h := newHouse(t)
	h.writeConfigs(nil)
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(binary(t, name), args...).CombinedOutput()
		if err != nil {
			t.Errorf("%s %v: %v: %s", name, args, err, out)
		}
		return string(out)
	}
	issuerYAML, verifierYAML := filepath.Join(h.dir, "issuer.yaml"), filepath.Join(h.dir, "verifier.yaml")
	for name, config := range map[string]string{"hourpass-issuer": issuerYAML, "hourpass-verifier": verifierYAML} {
		if out := run(name, "--help"); !strings.Contains(out, "--config") || !strings.Contains(out, "validate") {
			t.Errorf("%s --help prints %q", name, out)
		}
		if out := run(name, "version"); !strings.HasPrefix(out, name+" ") {
			t.Errorf("%s version prints %q", name, out)
		}
		if out := run(name, "validate", "--config", config); !strings.Contains(out, "ok") {
			t.Errorf("%s validate prints %q", name, out)
		}
		out, err := exec.Command(binary(t, name), "validate", "--config", config, "--set", "listen=nowhere", "--set", "bogus=1").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "want host:port") || !strings.Contains(string(out), "no setting bogus") {
			t.Errorf("%s validate of two mistakes prints %q, %v", name, out, err)
		}
	}
	if out, err := exec.Command(binary(t, "hourpass-issuer"), "--config", issuerYAML).CombinedOutput(); err == nil || !strings.Contains(string(out), "init") {
		t.Errorf("an issuer without state prints %q, %v, want a word about init", out, err)
	}
	run("hourpass-issuer", "init", "--config", issuerYAML)

	verifier := h.process("hourpass-verifier", verifierYAML)
	issuer := h.process("hourpass-issuer", issuerYAML)
	h.awaitReady(h.issuerOps)
	h.awaitReady(h.verifierOps)
	token := h.faqToken()
	if status, body := h.call(token, "faq-bot"); status != http.StatusOK {
		t.Errorf("a call: %d %s", status, body)
	}
	if status, _ := h.call(token, "hr-bot"); status != http.StatusForbidden {
		t.Errorf("a call to another model: %d", status)
	}
	for name, p := range map[string]*exec.Cmd{"issuer": issuer, "verifier": verifier} {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("%s after SIGTERM: %v", name, err)
		}
	}
}

func (h *house) process(name, config string) *exec.Cmd {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary(h.t, name), "--config", config)
	cmd.Stdout, cmd.Stderr = &h.logs, &h.logs
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return cmd
}

// TestKill: what was committed when the issuer was killed is there when it comes
// back, and so is its record.
func TestKill(t *testing.T) {
	h := newHouse(t)
	h.writeConfigs(nil)
	config := filepath.Join(h.dir, "issuer.yaml")
	if out, err := exec.Command(binary(t, "hourpass-issuer"), "init", "--config", config).CombinedOutput(); err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	issuer := h.process("hourpass-issuer", config)
	h.awaitReady(h.issuerOps)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"]}`)
	tok := h.refresh(k, l.Refresh)
	if err := issuer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = issuer.Wait() // It was killed.
	h.process("hourpass-issuer", config)
	h.awaitReady(h.issuerOps)
	h.refresh(k, tok.Refresh)
	var last struct {
		JTI string `json:"jti"`
	}
	records, _ := json.Marshal(h.records("issuer")[3])
	if err := json.Unmarshal(records, &last); err != nil || last.JTI == "" {
		t.Errorf("the record of the exchange before the kill is %s", records)
	}
}
