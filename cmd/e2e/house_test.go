package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/cmd/internal/toyidp"
	"github.com/hourpass/hourpass/cmd/internal/toymodel"
	"github.com/hourpass/hourpass/cmd/internal/verifierd"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/policy"
)

// house is an issuer and a verifier, assembled from their configuration files as
// the programs do, with a toy identity provider, a forging identity provider
// whose tokens say whatever a test wants, and a toy model server.
type house struct {
	t   *testing.T
	dir string

	issuer, issuerOps     string // Base URLs.
	verifier, verifierOps string
	idp                   *toyidp.Provider
	idpURL                string
	forge                 *forge
	model                 *httptest.Server
	modelHandler          atomic.Pointer[http.Handler]
	modelCalls            atomic.Int64

	store    string       // As the configuration names it.
	replicas []replica    // None: there is one issuer.
	clock    atomic.Int64 // Added to the real time, in nanoseconds.
	logs     logs
	programs map[string]*running

	reading sync.Mutex
	read    map[string]*tail // By audit log.
}

type running struct {
	stop func()
	done chan error
}

const modelKey = "sk-upstream-secret"

// startHouse starts everything, and stops it when the test ends. The issuer's
// configuration is changed by edits of "old" to "new" text.
func startHouse(t *testing.T, edits ...string) *house {
	t.Helper()
	h := newHouse(t)
	h.startPrograms(edits...)
	return h
}

// startPrograms starts issuer and verifier from nothing and waits for them.
func (h *house) startPrograms(edits ...string) {
	h.t.Helper()
	h.writeConfigs(edits)
	if err := issuerd.Init(h.t.Context(), h.options("issuer.yaml")); err != nil {
		h.t.Fatal(err)
	}
	h.startIssuer()
	h.start("verifier", verifierd.Run)
	h.awaitReady(h.issuerOps)
	h.awaitReady(h.verifierOps)
}

// newHouse starts the toys alone and says where the programs will be.
func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), programs: map[string]*running{}, read: map[string]*tail{}}
	h.store = filepath.Join(h.dir, "issuer.db")
	if engine != "" {
		h.store = peers.Postgres(t) // Outlives the programs, which write to their end.
	}
	t.Cleanup(func() {
		h.stop("verifier")
		h.stopIssuer()
		if t.Failed() {
			t.Logf("logs of the programs:\n%s", h.logs.String())
		}
	})
	h.issuer, h.issuerOps = "http://"+freeAddr(t), "http://"+freeAddr(t)
	h.verifier, h.verifierOps = "http://"+freeAddr(t), "http://"+freeAddr(t)
	h.startToys()
	if engine == "replicas" {
		h.startRoundRobin()
	}
	return h
}

// engine is what the issuers of the tests keep their state in: a SQLite file;
// with HOURPASS_TEST_STORE=postgres, a PostgreSQL database; with =replicas, one
// that two issuers behind a round robin share.
var engine = os.Getenv("HOURPASS_TEST_STORE")

// freeAddr is a loopback address that nobody listens on, with a port that the
// kernel gives to nobody who does not ask for it by number.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(10_000+rand.IntN(22_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (h *house) startToys() {
	h.forge = newForge(h.t)
	var toys http.Handler
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { toys.ServeHTTP(w, r) }))
	h.t.Cleanup(idp.Close)
	h.idpURL = idp.URL
	provider, err := toyidp.New(toyidp.Config{
		Issuer:  idp.URL,
		Clients: []toyidp.Client{{ID: "hourpass", Secret: "toy-secret", RedirectURIs: []string{h.issuer + "/callback/corp"}}},
		Users: []toyidp.User{
			{Subject: "ada", Username: "ada", Password: "lovelace", Groups: []string{"faq-users", "everybody"}},
			{Subject: "grace", Username: "grace", Password: "hopper", Groups: []string{"faq-users"}},
			{Subject: "eve", Username: "eve", Password: "dropper", Groups: []string{"everybody"}},
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	toys, h.idp = provider, provider
	h.serveModel(toymodel.New(toymodel.Config{Models: []string{"faq-bot", "hr-bot"}, Credential: modelKey}))
	h.model = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.modelCalls.Add(1)
		(*h.modelHandler.Load()).ServeHTTP(w, r)
	}))
	h.t.Cleanup(h.model.Close)
}

// serveModel puts another model server in the place of the present one.
func (h *house) serveModel(handler http.Handler) { h.modelHandler.Store(&handler) }

func (h *house) writeConfigs(edits []string) {
	addr := func(u string) string { return strings.TrimPrefix(u, "http://") }
	issuer := fmt.Sprintf(`
url: %[1]s
listen: %[2]s
ops_listen: %[3]s
audiences: [models, other-models]
store: %[7]q
rates: {per_address: 100000, per_key: 100000, failures: 100000}
key_encryption_key: %[4]s/kek
pepper: %[4]s/pepper
audit: %[4]s/issuer-audit.jsonl
drain_timeout: 2s
providers:
  - name: corp
    issuer: %[5]s
    client_id: hourpass
    client_secret: toy-secret
    scopes: [offline_access, groups]
    audiences: [tools]
  - name: forge
    issuer: %[6]s
    audiences: [tools]
grants:
  - name: faq
    tier: free
    scopes: [chat:faq-bot, completions:faq-bot, embeddings:faq-bot, responses:faq-bot]
    members:
      - {provider: corp, groups: [faq-users]}
      - {provider: forge, groups: [faq-users]}
  - name: wide
    scopes: [chat:faq-bot, chat:hr-bot]
    default: [chat:faq-bot]
    max_lifetime: 10m
    members:
      - {provider: corp, groups: [faq-users]}
`, h.issuer, addr(h.issuer), addr(h.issuerOps), h.dir, h.idpURL, h.forge.url, h.store)
	issuer = strings.NewReplacer(edits...).Replace(issuer)
	verifier := fmt.Sprintf(`
issuer: %[1]s
audience: models
listen: %[2]s
ops_listen: %[3]s
audit: %[4]s/verifier-audit.jsonl
drain_timeout: 2s
key_set:
  snapshot: %[5]s/key-set.json
revocations:
  snapshot: %[5]s/revocations.jwt
upstreams:
  - name: toy
    url: %[6]s
    models: ["*"]
    credential: Bearer %[7]s
    response_timeout: 2s
    idle_timeout: 2s
`, h.issuer, addr(h.verifier), addr(h.verifierOps), h.dir, h.dir, h.model.URL, modelKey)
	for name, text := range map[string]string{"issuer.yaml": issuer, "verifier.yaml": verifier} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	h.writeReplicas(issuer)
}

func (h *house) now() time.Time { return time.Now().Add(time.Duration(h.clock.Load())) }

// pass lets time go by, for issuer and verifier.
func (h *house) pass(d time.Duration) {
	h.clock.Add(int64(d))
	if h.programs["issuer"] != nil {
		// Signing keys that were read too long ago sign nothing until they are
		// read again.
		h.await("the issuer to notice the time", func() bool {
			_, body := h.readyz(h.issuerOps)
			return strings.Contains(body, `"signing_keys":"ok"`)
		})
	}
}

func (h *house) options(config string) program.Options {
	return program.Options{Config: filepath.Join(h.dir, config), Stdout: io.Discard, Stderr: &h.logs, Now: h.now}
}

func (h *house) start(name string, run func(context.Context, program.Options) error) {
	ctx, cancel := context.WithCancel(context.Background()) // It ends by stop.
	p := &running{stop: cancel, done: make(chan error, 1)}
	h.programs[name] = p
	go func() { p.done <- run(ctx, h.options(name+".yaml")) }()
}

func (h *house) stop(name string) {
	p := h.programs[name]
	if p == nil {
		return
	}
	delete(h.programs, name)
	p.stop()
	if err := <-p.done; err != nil {
		h.t.Errorf("%s ended with: %v", name, err)
	}
}

func (h *house) restartIssuer() {
	h.stopIssuer()
	h.startIssuer()
	h.awaitReady(h.issuerOps)
}

func (h *house) awaitReady(ops string) {
	h.t.Helper()
	h.await(ops+" to be ready", func() bool {
		status, _ := h.readyz(ops)
		return status == http.StatusOK
	})
	if ops == h.issuerOps {
		// Ready is who knows one identity provider; the tests want the one to log
		// in at.
		h.await("the identity provider to be known", func() bool {
			res, err := http.DefaultTransport.RoundTrip(h.authorizeRequest())
			if err != nil {
				return false
			}
			res.Body.Close()
			return res.StatusCode != http.StatusServiceUnavailable
		})
	}
}

func (h *house) authorizeRequest() *http.Request {
	r, err := http.NewRequest(http.MethodGet, h.authorizeURL(oauth2.GenerateVerifier()), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h *house) readyz(ops string) (status int, body string) {
	res, err := http.Get(ops + "/readyz")
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// await polls until ok, and fails the test after 20 seconds.
func (h *house) await(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// logs collect what the programs write, for a look after a failure and for the
// hunt for secrets.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// login is what "hourpass login" keeps.
type login struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// browserTo walks from a URL through the toy provider's login, until a redirect
// goes to the loopback callback, and returns that address.
func (h *house) browserTo(start, user, password string) (*url.URL, error) {
	return walkTo(cliRedirect, start, user, password)
}

// walkToy is browserTo for whichever port the client waits on.
func (h *house) walkToy(start, user, password string) (*url.URL, error) {
	u, err := url.Parse(start)
	if err != nil {
		return nil, err
	}
	return walkTo(u.Query().Get("redirect_uri"), start, user, password)
}

func walkTo(redirect, start, user, password string) (*url.URL, error) {
	jar, _ := cookiejar.New(nil)
	var back *url.URL
	c := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), redirect) {
			back = r.URL
			return http.ErrUseLastResponse
		}
		r.SetBasicAuth(user, password)
		return nil
	}}
	res, err := c.Get(start)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if back == nil {
		b, _ := io.ReadAll(res.Body)
		return nil, fmt.Errorf("no way back: %s: %s", res.Status, b)
	}
	return back, nil
}

const cliRedirect = "http://127.0.0.1:7777/callback"

// logIn walks the browser login as the CLI does.
func (h *house) logIn(user, password string) login {
	h.t.Helper()
	verifier := oauth2.GenerateVerifier()
	back, err := h.browserTo(h.authorizeURL(verifier), user, password)
	if err != nil {
		h.t.Fatal(err)
	}
	if back.Query().Get("state") != "the-state" || back.Query().Get("iss") != h.issuer {
		h.t.Fatalf("the browser came back to %s", back)
	}
	var l login
	h.mustPost("/token", "", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"hourpass-cli"}, "code": {back.Query().Get("code")},
		"redirect_uri": {cliRedirect}, "code_verifier": {verifier},
	}, &l)
	return l
}

func (h *house) authorizeURL(verifier string) string {
	conf := oauth2.Config{ClientID: "hourpass-cli", RedirectURL: cliRedirect, Endpoint: oauth2.Endpoint{AuthURL: h.issuer + "/authorize"}}
	return conf.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("provider", "corp"))
}

// key is a machine key and its secret.
type key struct {
	policy.Key
	Secret string `json:"key"`
}

func (h *house) enrol(l login, body string) key {
	h.t.Helper()
	status, answer := h.api(http.MethodPost, "/v1/keys", l.Access, body)
	var k key
	if err := json.Unmarshal(answer, &k); err != nil || status != http.StatusCreated {
		h.t.Fatalf("enrolling a key: %d %s", status, answer)
	}
	return k
}

func (h *house) api(method, path, bearer, body string) (int, []byte) {
	h.t.Helper()
	req, err := http.NewRequest(method, h.issuer+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return h.send(req)
}

func (h *house) send(req *http.Request) (int, []byte) {
	h.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res.StatusCode, b
}

// post sends a form to the issuer, the machine key in HTTP Basic unless empty.
func (h *house) post(path, machineKey string, form url.Values) (int, []byte) {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, h.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if machineKey != "" {
		id := "nobody"
		if len(machineKey) > 20 {
			id = machineKey[4:20]
		}
		req.SetBasicAuth(id, machineKey)
	}
	return h.send(req)
}

func (h *house) mustPost(path, machineKey string, form url.Values, into any) {
	h.t.Helper()
	status, body := h.post(path, machineKey, form)
	if status != http.StatusOK {
		h.t.Fatalf("POST %s: %d %s", path, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		h.t.Fatal(err)
	}
}

// tokens is an answer of POST /token.
type tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Type      string `json:"token_type"`
	Issued    string `json:"issued_token_type"`
	Scope     string `json:"scope"`
	ExpiresIn int    `json:"expires_in"`
}

// refresh swaps login and key for a token.
func (h *house) refresh(k key, refreshToken string, more ...string) tokens {
	h.t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	var tok tokens
	h.mustPost("/token", k.Secret, form, &tok)
	return tok
}

// exchangeForm is the RFC 8693 request for an identity token.
func exchangeForm(identity string, more ...string) url.Values {
	form := url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"},
		"subject_token":      {identity},
	}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	return form
}

// call sends a chat request for the model through the verifier.
func (h *house) call(token, model string) (int, []byte) {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, h.verifier+"/v1/chat/completions",
		strings.NewReader(`{"model":"`+model+`","messages":[{"role":"user","content":"hello"}]}`))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return h.send(req)
}

// records reads an audit log.
func (h *house) records(program string) []audit.Record {
	h.t.Helper()
	programs := []string{program}
	if program == "issuer" && len(h.replicas) > 0 {
		programs = []string{"issuer", "issuer-2"}
	}
	h.reading.Lock()
	defer h.reading.Unlock()
	var list []audit.Record
	for _, name := range programs {
		if h.read[name] == nil {
			h.read[name] = &tail{}
		}
		if err := h.read[name].follow(filepath.Join(h.dir, name+"-audit.jsonl")); err != nil {
			h.t.Fatal(err)
		}
		list = append(list, h.read[name].records...)
	}
	slices.SortStableFunc(list, func(a, b audit.Record) int { return a.Time.Compare(b.Time) })
	return list
}

// tail is what was read of a log so far, so that a test that looks after each
// request does not read all of it each time.
type tail struct {
	file    os.FileInfo
	offset  int64
	records []audit.Record
}

// follow reads the lines that were added, or all where the file is another one.
func (l *tail) follow(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if l.file == nil || !os.SameFile(l.file, info) || info.Size() < l.offset {
		*l = tail{file: info}
	}
	added, err := io.ReadAll(io.NewSectionReader(file, l.offset, info.Size()-l.offset))
	if err != nil {
		return err
	}
	added = added[:bytes.LastIndexByte(added, '\n')+1]
	part := path + ".part"
	if err := os.WriteFile(part, added, 0o600); err != nil {
		return err
	}
	more, err := audit.Read(part)
	if err != nil {
		return err
	}
	l.offset, l.records = l.offset+int64(len(added)), append(l.records, more...)
	return os.Remove(part)
}

// oauthError is the issuer's refusal.
type oauthError struct {
	Code     string `json:"error"`
	Detail   string `json:"error_description"`
	Decision string `json:"decision_id"`
}

func decodeError(t *testing.T, body []byte) oauthError {
	t.Helper()
	var e oauthError
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("not an OAuth error: %s", body)
	}
	return e
}

// decodeProblem reads a refusal of the API (RFC 9457) as if OAuth had made it.
func decodeProblem(t *testing.T, body []byte) oauthError {
	t.Helper()
	var p struct {
		Type     string `json:"type"`
		Title    string `json:"title"`
		Status   int    `json:"status"`
		Code     string `json:"code"`
		Detail   string `json:"detail"`
		Decision string `json:"decision_id"`
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Type != "urn:hourpass:problem:"+p.Code || p.Status < 400 || p.Title != http.StatusText(p.Status) {
		t.Fatalf("not a problem: %s", body)
	}
	return oauthError{p.Code, p.Detail, p.Decision}
}
