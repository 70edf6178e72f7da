package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/cmd/internal/toyidp"
	"github.com/hourpass/hourpass/cmd/internal/toymodel"
	"github.com/hourpass/hourpass/cmd/internal/verifierd"
)

// The people that the toy identity provider knows, and the models that the toy
// model server has. Ada's group may use faq-bot and nothing else.
const (
	user, password = "ada", "lovelace"
	faqBot, hrBot  = "faq-bot", "hr-bot"
)

// startPatience is how long the parts may take to get ready.
const startPatience = 20 * time.Second

// twin is everything, running.
type twin struct {
	dir                             string
	portal, idp, issuer, verifier   string // Their base URLs.
	issuerOps, verifierOps, modelAt string
	modelCredential                 string

	logs   []*os.File
	cancel context.CancelFunc
	parts  *errgroup.Group
}

// start brings everything up and returns when it is ready.
func start(ctx context.Context, dir string) (t *twin, err error) {
	t = &twin{dir: dir, modelCredential: "sk-" + rand.Text()}
	// The ports that the documentation shows, or others where they are taken.
	listeners := map[*string]net.Listener{}
	for i, url := range []*string{&t.portal, &t.idp, &t.modelAt, &t.issuer, &t.issuerOps, &t.verifier, &t.verifierOps} {
		l, err := listenNear(ctx, 9300+i)
		if err != nil {
			return nil, err
		}
		*url, listeners[url] = "http://"+l.Addr().String(), l
	}
	if err := t.writeConfigs(); err != nil {
		return nil, err
	}
	// The servers listen for themselves.
	for _, url := range []*string{&t.issuer, &t.issuerOps, &t.verifier, &t.verifierOps} {
		if err := listeners[url].Close(); err != nil {
			return nil, err
		}
	}
	log, err := t.logFile("toys.log")
	if err != nil {
		return nil, err
	}
	toyLog := slog.New(slog.NewJSONHandler(log, nil))
	slog.SetDefault(toyLog) // The OpenID library logs there, whatever it is given.
	idp, err := toyidp.New(toyidp.Config{
		Issuer: t.idp,
		Clients: []toyidp.Client{
			{ID: "hourpass", Secret: "toy-secret", RedirectURIs: []string{t.issuer + "/callback/toy"}},
			{ID: "portal", RedirectURIs: []string{t.portal + "/identity/callback"}},
		},
		Users: []toyidp.User{
			{Subject: "ada", Username: user, Password: password, Name: "Ada Lovelace", Groups: []string{"faq-users", "everybody"}},
			{Subject: "grace", Username: "grace", Password: "hopper", Name: "Grace Hopper", Groups: []string{"everybody"}},
		},
		Log: toyLog,
	})
	if err != nil {
		return nil, err
	}
	model := toymodel.New(toymodel.Config{Models: []string{faqBot, hrBot}, Credential: t.modelCredential, Pace: 15 * time.Millisecond})

	ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx)) // It ends by stop, so that the walk can tell why.
	t.parts, ctx = errgroup.WithContext(ctx)
	t.serve(ctx, listeners[&t.idp], idp)
	t.serve(ctx, listeners[&t.modelAt], model)
	t.serve(ctx, listeners[&t.portal], newPortal(t))
	if err := t.runServers(ctx); err != nil {
		return nil, errors.Join(err, t.stop())
	}
	return t, nil
}

// listenNear opens the port, or any other where it is taken.
func listenNear(ctx context.Context, port int) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		l, err = lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	return l, err
}

func (t *twin) path(name string) string { return filepath.Join(t.dir, name) }

func (t *twin) logFile(name string) (io.Writer, error) {
	f, err := os.OpenFile(t.path(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		t.logs = append(t.logs, f)
	}
	return f, err
}

// serve runs a toy until ctx ends.
func (t *twin) serve(ctx context.Context, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	t.parts.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	t.parts.Go(func() error {
		<-ctx.Done()
		return srv.Close()
	})
}

// runServers starts issuer and verifier exactly as their own programs do, from
// their configuration files.
func (t *twin) runServers(ctx context.Context) error {
	issuerLog, err1 := t.logFile("issuer.log")
	verifierLog, err2 := t.logFile("verifier.log")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	issuerOptions := program.Options{Config: t.path("issuer.yaml"), Stdout: io.Discard, Stderr: issuerLog}
	verifierOptions := program.Options{Config: t.path("verifier.yaml"), Stdout: io.Discard, Stderr: verifierLog}
	if err := issuerd.Init(ctx, issuerOptions); err != nil {
		return err
	}
	t.parts.Go(func() error { return issuerd.Run(ctx, issuerOptions) })
	t.parts.Go(func() error { return verifierd.Run(ctx, verifierOptions) })
	ready, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	return errors.Join(waitReady(ready, t.issuerOps), waitReady(ready, t.verifierOps))
}

// waitReady asks /readyz until it says yes.
func waitReady(ctx context.Context, ops string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ops+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not get ready", ops)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends everything and waits for it.
func (t *twin) stop() error {
	t.cancel()
	err := t.parts.Wait()
	for _, f := range t.logs {
		err = errors.Join(err, f.Close())
	}
	return err
}

// configs are the twin's configuration files; copy them to begin your own.
var configs = template.Must(template.New("").Parse(`
{{define "issuer.yaml"}}url: {{.Issuer}}
listen: {{.IssuerListen}}
ops_listen: {{.IssuerOpsListen}}
audiences: [toy-models]
store: {{.Dir}}/issuer.db
signing_keys: {{.Dir}}/signing-keys.json
key_encryption_key: {{.Dir}}/key-encryption-key
pepper: {{.Dir}}/pepper
audit: {{.Dir}}/issuer-audit.jsonl
providers:
  - name: toy
    issuer: {{.IDP}}
    client_id: hourpass
    client_secret: toy-secret
    scopes: [offline_access, groups]
    audiences: [portal]
grants:
  - name: faq
    tier: free
    scopes: [chat:faq-bot, completions:faq-bot, embeddings:faq-bot, responses:faq-bot]
    members:
      - provider: toy
        groups: [faq-users]
{{end}}{{define "verifier.yaml"}}issuer: {{.Issuer}}
audience: toy-models
listen: {{.VerifierListen}}
ops_listen: {{.VerifierOpsListen}}
audit: {{.Dir}}/verifier-audit.jsonl
key_set:
  snapshot: {{.Dir}}/key-set-snapshot.json
upstreams:
  - name: toy
    url: {{.Model}}
    models: ["*"]
    credential: Bearer {{.ModelCredential}}
{{end}}`))

func (t *twin) writeConfigs() error {
	addr := func(url string) string { return url[len("http://"):] }
	data := map[string]string{
		"Dir": t.dir, "IDP": t.idp, "Model": t.modelAt, "ModelCredential": t.modelCredential, "Issuer": t.issuer,
		"IssuerListen": addr(t.issuer), "IssuerOpsListen": addr(t.issuerOps),
		"VerifierListen": addr(t.verifier), "VerifierOpsListen": addr(t.verifierOps),
	}
	for _, name := range []string{"issuer.yaml", "verifier.yaml"} {
		var b bytes.Buffer
		if err := configs.ExecuteTemplate(&b, name, data); err != nil {
			return err
		}
		if err := os.WriteFile(t.path(name), b.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return nil
}
