package jwks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"time"
)

// fetchTimeout bounds a whole fetch, from the dial to the last byte, so that a
// server that sends a byte a second holds up nobody for long.
const fetchTimeout = 10 * time.Second

// maxETag bounds the text that we keep and send back.
const maxETag = 256

func newClient(given *http.Client) *http.Client {
	client := http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  fetchTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        time.Minute,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}}
	if given != nil {
		client = *given
	}
	// The keys are what this URL says, not what it points to: a redirect may
	// lead to another host, or to plain http.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// Reasons why a fetch brought nothing, as [Status] counts them.
const (
	ReasonUnreachable = "unreachable" // No answer, or not all of it.
	ReasonStatus      = "status"
	ReasonType        = "type"     // Of the content, or its encoding.
	ReasonDocument    = "document" // It is no key set, or one with a key that must not be there.
)

// reasons is their order in the counters.
var reasons = [...]string{ReasonUnreachable, ReasonStatus, ReasonType, ReasonDocument}

// unaccepted is why a document was not.
type unaccepted struct {
	reason string
	error
}

func (u *unaccepted) Unwrap() error { return u.error }

// reasonOf is the reason that err gives.
func reasonOf(err error) string {
	var u *unaccepted
	if errors.As(err, &u) {
		return u.reason
	}
	return ReasonUnreachable
}

// fetch returns what to hold after asking the issuer once: a new document that
// passes every check, or old's, if the issuer says that it is still good. The
// errors hold nothing of the document but kids.
func (r *Remote) fetch(ctx context.Context, old *held) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.c.URL, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("Accept-Encoding", "identity") // Without this the transport would inflate a bomb for us.
	if old.etag != "" {
		req.Header.Set("If-None-Match", old.etag)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusNotModified && old.etag != "" {
		return &held{set: old.set, doc: old.doc, etag: old.etag, generation: old.generation}, nil
	}
	if err := checkResponse(res); err != nil {
		return nil, err
	}
	doc, err := io.ReadAll(io.LimitReader(res.Body, MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading the key set: %w", err)
	}
	set, err := Parse(doc)
	if err != nil {
		return nil, &unaccepted{ReasonDocument, err}
	}
	h := &held{set: set, doc: doc, etag: res.Header.Get("ETag"), generation: old.generation}
	if len(h.etag) > maxETag {
		h.etag = ""
	}
	if old.set == nil || !set.Equal(old.set) {
		h.generation++
	}
	return h, nil
}

// checkResponse checks all but the body.
func checkResponse(res *http.Response) error {
	if res.StatusCode != http.StatusOK {
		return &unaccepted{ReasonStatus, fmt.Errorf("the issuer answered %d, want 200", res.StatusCode)}
	}
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || media != "application/json" && media != "application/jwk-set+json" {
		return &unaccepted{ReasonType, errors.New("the issuer's answer is not application/jwk-set+json or application/json")}
	}
	if encoding := res.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return &unaccepted{ReasonType, errors.New("the issuer's answer is compressed, which we did not ask for")}
	}
	return nil
}
