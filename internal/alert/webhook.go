package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// WebhookConfig says where events are posted to, and how they are signed.
type WebhookConfig struct {
	// URL takes a POST of one event as JSON, and answers 2xx when it has it. It is
	// https, or http on loopback. Redirects are not followed. What stands in it
	// beyond the host is never logged.
	URL string

	// Secret is what the receiver checks signatures with: "whsec_" and 24 to 64
	// random bytes in base64, as the Standard Webhooks libraries take it.
	Secret string

	// Timeout is how long a receiver may take for one event, up to [MaxSending].
	// Zero is 10 seconds.
	Timeout time.Duration

	// Client is used as it is, but for redirects. Nil: one of our own.
	Client *http.Client
}

// Bounds of a webhook.
const (
	secretPrefix   = "whsec_"
	minSecret      = 24 // Bytes.
	maxSecret      = 64
	maxAnswer      = 16 << 10 // Bytes of an answer's body, which is not looked at, and of its header.
	webhookTimeout = 10 * time.Second
)

// Webhook is the sink that posts events, signed as Standard Webhooks 1.0 says:
// https://www.standardwebhooks.com.
type Webhook struct {
	poster
	key []byte
}

// NewWebhook returns a webhook, or all that is wrong with c. It sends nothing.
func NewWebhook(c WebhookConfig) (*Webhook, error) {
	key, err := parseSecret(c.Secret)
	err = errors.Join(checkURL(c.URL), err)
	if c.Timeout < 0 || c.Timeout > MaxSending {
		err = errors.Join(err, fmt.Errorf("timeout: want up to %s", MaxSending))
	}
	if err != nil {
		return nil, err
	}
	return &Webhook{newPoster(c.URL, c.Timeout, c.Client), key}, nil
}

// checkURL never quotes the URL: its path may be the password.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && !isLoopbackHTTP(u) {
		return errors.New("webhook: want https://host/…, without user or fragment; http for loopback only")
	}
	return nil
}

func isLoopbackHTTP(u *url.URL) bool {
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && addr.IsLoopback())
}

func parseSecret(text string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, fmt.Errorf("secret: want %s and %d to %d random bytes in base64", secretPrefix, minSecret, maxSecret)
	}
	return key, nil
}

// Name is "webhook".
func (*Webhook) Name() string { return "webhook" }

// Send posts the event. The timestamp is of this attempt, so that receivers can
// refuse what somebody kept and sends again later.
func (w *Webhook) Send(ctx context.Context, e Event, now time.Time) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding an alert: %w", err)
	}
	timestamp := strconv.FormatInt(now.Unix(), 10)
	return w.post(ctx, body, map[string]string{
		"webhook-id": e.ID, "webhook-timestamp": timestamp, "webhook-signature": w.sign(e.ID, timestamp, body),
	})
}

// poster posts JSON to one URL, which is never told: its path may be the password.
type poster struct {
	url     string
	timeout time.Duration
	client  *http.Client
}

func newPoster(to string, timeout time.Duration, client *http.Client) poster {
	if timeout == 0 {
		timeout = webhookTimeout
	}
	own := http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		MaxResponseHeaderBytes: maxAnswer,
		IdleConnTimeout:        time.Minute,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}}
	if client != nil {
		own = *client
	}
	// Events are for this URL, not for where it points: a redirect may lead to
	// another host, or to plain http.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return poster{to, timeout, &own}
}

func (p *poster) post(ctx context.Context, body []byte, header map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("posting an alert: the URL can't be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "hourpass-issuer")
	req.Header.Set("Accept-Encoding", "identity") // Nothing of the answer is read, least of all inflated.
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := p.client.Do(req)
	if err != nil {
		var outer *url.Error // It quotes the whole URL.
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return fmt.Errorf("posting an alert: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // So that the connection can be used again; the status has been told.
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("posting an alert: the receiver answered %d", res.StatusCode)
	}
	return nil
}

// sign covers id, time and body, so that none can be had from another event.
func (w *Webhook) sign(id, timestamp string, body []byte) string {
	h := hmac.New(sha256.New, w.key)
	h.Write([]byte(id + "." + timestamp + "."))
	h.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}
