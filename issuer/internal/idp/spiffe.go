package idp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// maxTrustDomain is the bound of SPIFFE-ID, section 2.3, in bytes.
const maxTrustDomain = 255

func validTrustDomain(s string) bool {
	return s != "" && len(s) <= maxTrustDomain && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// trustDomainOf returns the trust domain of a workload's SPIFFE ID (SPIFFE-ID,
// section 2): letters, digits and ._- between single slashes, no dots alone, and
// a path, because the trust domain by itself is no workload.
func trustDomainOf(id string) (string, bool) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path, _ := strings.Cut(rest, "/")
	if !ok || !validTrustDomain(domain) {
		return "", false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." ||
			strings.Trim(segment, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			return "", false
		}
	}
	return domain, true
}

// bundleKeys makes a plain key set of a SPIFFE bundle (SPIFFE Trust Domain and
// Bundle, section 4): the keys for JWT-SVIDs alone, for signatures. Those for
// X.509-SVIDs sign certificates and must never verify a token. A document of any
// other form is returned as it is, for the key store to judge.
func bundleKeys(doc []byte) []byte {
	members, err := strictjson.Object(doc, strictjson.Limits{})
	if err != nil {
		return doc
	}
	v, err := Claims(members).value("keys")
	if err != nil {
		return doc
	}
	list, err := strictjson.Array(v.Raw, strictjson.Limits{})
	if err != nil {
		return doc
	}
	keys := []map[string]json.RawMessage{}
	for _, k := range list {
		jwk, err := strictjson.Object(k.Raw, strictjson.Limits{})
		if err != nil {
			return doc
		}
		use, _ := Claims(jwk).optionalText("use")
		if use == "x509-svid" {
			continue
		}
		key := make(map[string]json.RawMessage, len(jwk))
		for _, m := range jwk {
			key[m.Name] = m.Raw
		}
		if use == "jwt-svid" {
			key["use"] = json.RawMessage(`"sig"`)
		}
		keys = append(keys, key)
	}
	plain, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		return doc
	}
	return plain
}

// bundleTransport hands SPIFFE bundles on as plain key sets.
type bundleTransport struct{ http.RoundTripper }

func (t bundleTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.RoundTripper.RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusOK {
		return res, err
	}
	doc, err := io.ReadAll(res.Body) // boundedTransport bounds it.
	_ = res.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading a trust bundle: %w", err)
	}
	doc = bundleKeys(doc)
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(doc)), int64(len(doc))
	return res, nil
}
