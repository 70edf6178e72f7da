package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// client talks with the issuer.
type client struct {
	issuer string
	http   *http.Client
}

// maxAnswer bounds what an issuer can make us read.
const maxAnswer = 1 << 20

// newClient checks that nobody could read along: https, or http to this very
// computer.
func newClient(issuer string) (*client, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("the issuer must be a URL such as https://hourpass.example.com")
	}
	addr, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return nil, errors.New("the issuer must be an https URL")
	}
	return &client{issuer, &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the issuer answers with a redirect") },
	}}, nil
}

// refused is what the issuer said no with.
type refused struct {
	Status   int
	Code     string
	Detail   string
	Decision string
}

// UnmarshalJSON reads the refusals of OAuth (RFC 6749, section 5.2) and those of
// the API (RFC 9457).
func (r *refused) UnmarshalJSON(b []byte) error {
	var body struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Code        string `json:"code"`
		Detail      string `json:"detail"`
		Decision    string `json:"decision_id"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return err
	}
	r.Code, r.Detail, r.Decision = cmp.Or(body.Error, body.Code), cmp.Or(body.Description, body.Detail), body.Decision
	return nil
}

func (r *refused) Error() string {
	text := fmt.Sprintf("the issuer refuses: %s (%s)", r.Detail, r.Code)
	if r.Decision != "" {
		text += ", decision " + r.Decision
	}
	return text
}

// call sends a request and decodes a good answer into answer.
func (c *client) call(req *http.Request, answer any) error {
	res, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // Without the URL around it, which may hold a code.
		}
		return fmt.Errorf("asking %s: %w", c.issuer, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("asking %s: %w", c.issuer, err)
	}
	if res.StatusCode >= 300 {
		no := &refused{Status: res.StatusCode}
		if json.Unmarshal(body, no) != nil || no.Code == "" {
			return fmt.Errorf("asking %s: it answers %s", c.issuer, res.Status)
		}
		return no
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.issuer, err)
	}
	return nil
}

func (c *client) get(ctx context.Context, path, bearer string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.issuer+path, nil)
	if err != nil {
		return err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	return c.call(req, answer)
}

func (c *client) postJSON(ctx context.Context, path, bearer string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.issuer+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+bearer)
	return c.call(req, answer)
}

// tokens is an answer of the token endpoint.
type tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ExpiresIn int64  `json:"expires_in"`
}

// token asks the token endpoint; id and key, where given, authenticate.
func (c *client) token(ctx context.Context, id, key string, form url.Values) (tokens, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return tokens{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if key != "" {
		req.SetBasicAuth(id, key)
	}
	var t tokens
	return t, c.call(req, &t)
}
