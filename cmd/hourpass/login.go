package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"
)

// loginPatience is how long a person may take in the browser.
const loginPatience = 5 * time.Minute

// clientID is what issuers know this program by.
const clientID = "hourpass-cli"

func (c *cli) loginCommand() *cobra.Command {
	var issuer, provider string
	var noBrowser bool
	cmd := &cobra.Command{
		Use: "login", Short: "Log in through your company's single sign-on, in the browser", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if issuer == "" {
				issuer = c.getenv("HOURPASS_ISSUER")
			}
			if issuer == "" {
				s, err := c.state.read()
				if err != nil {
					return err
				}
				issuer = s.Issuer
			}
			if issuer == "" {
				return errors.New("which issuer? Give --issuer URL or set HOURPASS_ISSUER")
			}
			open := openBrowser
			if noBrowser {
				open = nil
			}
			return c.login(cmd, issuer, provider, open)
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "log in at the issuer at `URL` (default: HOURPASS_ISSUER, or the last one)")
	cmd.Flags().StringVar(&provider, "provider", "", "log in at the identity provider of that `NAME`, where there are several")
	cmd.Flags().BoolVar(&noBrowser, "no-browser", false, "only print the address to open")
	return cmd
}

// login walks RFC 8252: the browser logs in and comes back to a port of ours on
// loopback.
func (c *cli) login(cmd *cobra.Command, issuer, provider string, open func(context.Context, string) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), loginPatience)
	defer cancel()
	issuerClient, err := newClient(issuer)
	if err != nil {
		return err
	}
	var metadata struct {
		Issuer    string `json:"issuer"`
		Authorize string `json:"authorization_endpoint"`
	}
	if err := issuerClient.get(ctx, "/.well-known/oauth-authorization-server", "", &metadata); err != nil {
		return err
	}
	if metadata.Issuer != issuer {
		return fmt.Errorf("%s calls itself %q: give exactly that URL", issuer, metadata.Issuer) // RFC 8414, section 3.3.
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("waiting for the browser: %w", err)
	}
	conf := oauth2.Config{
		ClientID: clientID, RedirectURL: "http://" + listener.Addr().String() + "/callback",
		Endpoint: oauth2.Endpoint{AuthURL: metadata.Authorize},
	}
	verifier, echo := oauth2.GenerateVerifier(), rand.Text()
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	if provider != "" {
		options = append(options, oauth2.SetAuthURLParam("provider", provider))
	}
	address := conf.AuthCodeURL(echo, options...)
	if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "Log in here, if no browser opens:\n\n  %s\n\n", address); err != nil {
		return err
	}
	if open != nil {
		_ = open(ctx, address) // The address was printed; a computer without a browser is fine.
	}
	code, err := waitForCode(ctx, listener, echo, issuer)
	if err != nil {
		return err
	}
	t, err := issuerClient.token(ctx, "", "", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {clientID}, "code": {code},
		"redirect_uri": {conf.RedirectURL}, "code_verifier": {verifier},
	})
	if err != nil {
		return err
	}
	err = c.state.update(func(s *state) error {
		if s.Issuer != issuer {
			s.KeyID, s.Key = "", "" // A key of another issuer is of no use here.
		}
		s.Issuer, s.Access, s.Refresh = issuer, t.Access, t.Refresh
		s.Fresh = time.Now().Add(time.Duration(t.ExpiresIn) * time.Second)
		return nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.ErrOrStderr(), "Logged in.")
	return err
}

// waitForCode serves the one request that brings the code. Whoever else finds
// the port, without our state parameter, changes nothing.
func waitForCode(ctx context.Context, listener net.Listener, echo, issuer string) (string, error) {
	type result struct {
		code string
		err  error
	}
	got := make(chan result, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(echo)) != 1 {
			http.Error(w, "This is not the login that hourpass waits for.", http.StatusBadRequest)
			return
		}
		res := result{code: q.Get("code")}
		if q.Get("iss") != issuer || res.code == "" {
			res = result{err: errors.New("the browser came back without a login")} // RFC 9207.
			http.Error(w, "The login failed. The terminal says more.", http.StatusBadRequest)
		} else {
			_, _ = w.Write([]byte("You are logged in. You can close this window.\n"))
		}
		select {
		case got <- res:
		default: // The first one counts.
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(listener) // It ends by Shutdown, below.
	}()
	defer func() { _ = srv.Shutdown(context.WithoutCancel(ctx)); <-served }()
	select {
	case res := <-got:
		return res.code, res.err
	case <-ctx.Done():
		return "", errors.New("nobody logged in in time")
	}
}

// openBrowser opens the person's own browser, if this computer has one.
func openBrowser(ctx context.Context, address string) error {
	name, args := "xdg-open", []string{address}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	return exec.CommandContext(ctx, name, args...).Start() //nolint:gosec // No shell reads the address.
}
