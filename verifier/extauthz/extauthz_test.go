package extauthz_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/verifier"
	"github.com/hourpass/hourpass/verifier/extauthz"
)

// set is the issuer's keys.
type set struct{ *jwks.Set }

func (s set) Verify(compact string, _ time.Time) ([]byte, string, error) {
	return s.VerifyKeyID(jwks.Profile{Types: []string{token.Type}, Algorithms: []string{jwks.ES256}, ExactHeader: true}, compact)
}

func (set) Generation(time.Time) (uint64, error) { return 1, nil }

// door is ext_authz on a real socket, and a client as Envoy's.
type door struct {
	auth.AuthorizationClient
	key *ecdsa.PrivateKey
}

func open(t *testing.T, trusted string) *door {
	t.Helper()
	d := &door{}
	var err error
	if d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &d.key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := jwks.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verifier.Config{
		Issuers:   []verifier.Issuer{{URL: "https://issuer.test", Audience: "models", Keys: set{keys}}},
		Upstreams: []verifier.Upstream{{Name: "llm", URL: "http://127.0.0.1:1", Models: []string{"small", "large"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := extauthz.New(v, "llm", []netip.Prefix{netip.MustParsePrefix(trusted)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }() // It ends with Stop.
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	d.AuthorizationClient = auth.NewAuthorizationClient(conn)
	return d
}

func (d *door) token(t *testing.T, scope string, more ...func(map[string]any)) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{
		"iss": "https://issuer.test", "sub": "corp:ada", "aud": "models", "client_id": "key0123456789abc", "iat": now, "nbf": now, "exp": now + 3600,
		"jti": "jti-1", "scope": scope, "grant": "faq",
	}
	for _, m := range more {
		m(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: d.key}, (&jose.SignerOptions{}).WithType(token.Type).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// question is a good one, as Envoy asks with the body, to be spoiled.
func (d *door) question(t *testing.T) *auth.CheckRequest {
	const body = `{"model":"small","messages":[]}`
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source: &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Address: "203.0.113.9", PortSpecifier: &core.SocketAddress_PortValue{PortValue: 1234},
		}}}},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Method: "POST", Path: "/v1/chat/completions", Host: "models.test", Scheme: "https", Protocol: "HTTP/2", Size: int64(len(body)), RawBody: []byte(body),
			Headers: map[string]string{
				":authority": "models.test", ":path": "/v1/chat/completions", "authorization": "Bearer " + d.token(t, "chat:small"),
				"content-type": "application/json", "x-envoy-auth-partial-body": "false",
			},
		}},
	}}
}

func TestCheck(t *testing.T) {
	d := open(t, "127.0.0.0/8")
	type request = auth.AttributeContext_HttpRequest
	for _, row := range []struct {
		name   string
		spoil  func(*request)
		status int
		code   string
	}{
		{"with the body", func(*request) {}, 200, ""},
		{"with the body as text", func(r *request) { r.Body, r.RawBody = string(r.RawBody), nil }, 200, ""},
		{"of unknown size", func(r *request) { r.Size = -1 }, 200, ""},
		{"another model", func(r *request) { r.RawBody = []byte(`{"model":"large","messages":[]}`) }, 403, "insufficient_scope"},
		{"a model twice", func(r *request) { r.RawBody, r.Size = []byte(`{"model":"small","model":"large"}`), -1 }, 400, "invalid_body"},
		{"a body that we would write otherwise", func(r *request) { r.RawBody, r.Size = []byte(` {"model":"small"}`), -1 }, 400, "invalid_body"},
		{"a body that is cut off", func(r *request) { r.Headers["x-envoy-auth-partial-body"] = "true" }, 403, "insufficient_scope"},
		{"a body that may be cut off", func(r *request) { delete(r.Headers, "x-envoy-auth-partial-body") }, 403, "insufficient_scope"},
		{"a body that is longer", func(r *request) { r.Size = 4096 }, 403, "insufficient_scope"},
		{"without the body", func(r *request) { r.RawBody = nil }, 403, "insufficient_scope"},
		{"without the body, all covered", func(r *request) {
			r.RawBody, r.Headers["authorization"] = nil, "Bearer "+d.token(t, "chat:small chat:large")
		}, 200, ""},
		{"a body where none belongs", func(r *request) {
			r.Method, r.Path, r.RawBody, r.Headers["content-length"] = "GET", "/v1/models/small", nil, "20"
		}, 400, "invalid_request"},
		{"no token", func(r *request) { delete(r.Headers, "authorization") }, 401, "missing_token"},
		{"two tokens in one header", func(r *request) { r.Headers["authorization"] += "," + r.Headers["authorization"] }, 401, "invalid_token"},
		{"two tokens", func(r *request) { r.Headers["x-api-key"] = d.token(t, "chat:large") }, 401, "invalid_token"},
		{"a path in disguise", func(r *request) { r.Path = "/v1/x/../chat/completions" }, 400, "invalid_target"},
		{"an encoded slash", func(r *request) { r.Path = "/v1/chat%2fcompletions" }, 400, "invalid_target"},
		{"an absolute path", func(r *request) { r.Path = "http://x/v1/chat/completions" }, 400, "invalid_target"},
		{"no path", func(r *request) { r.Path = "" }, 400, "invalid_target"},
		{"a network of the client's", func(r *request) {
			r.Headers["authorization"] = "Bearer " + d.token(t, "chat:small", func(c map[string]any) { c["ip"] = []string{"203.0.113.0/24"} })
		}, 200, ""},
		{"another network", func(r *request) {
			r.Headers["authorization"] = "Bearer " + d.token(t, "chat:small", func(c map[string]any) { c["ip"] = []string{"198.51.100.0/24"} })
		}, 403, "address_not_allowed"},
		{"another network, by the client's own word", func(r *request) {
			r.Headers["authorization"] = "Bearer " + d.token(t, "chat:small", func(c map[string]any) { c["ip"] = []string{"198.51.100.0/24"} })
			r.Headers["x-forwarded-for"] = "198.51.100.1"
		}, 403, "address_not_allowed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			q := d.question(t)
			row.spoil(q.Attributes.Request.Http)
			got, err := d.Check(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if row.status == 200 {
				ok := got.GetOkResponse()
				if ok == nil || got.Status.Code != int32(codes.OK) {
					t.Fatalf("%v", got)
				}
				headers := map[string]string{}
				for _, h := range ok.Headers {
					if h.AppendAction != core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || !h.KeepEmptyValue {
						t.Errorf("%s can stand beside the client's own", h.Header.Key)
					}
					headers[h.Header.Key] = h.Header.Value
				}
				if headers["x-hourpass-subject"] != "corp:ada" || len(headers) != 6 {
					t.Errorf("headers %v", headers)
				}
				for _, name := range []string{"authorization", "x-api-key", "api-key", "x-goog-api-key"} {
					if !slices.Contains(ok.HeadersToRemove, name) {
						t.Errorf("%s is forwarded", name)
					}
				}
				return
			}
			no := got.GetDeniedResponse()
			if no == nil || int(no.Status.Code) != row.status || !strings.Contains(no.Body, `"code":"`+row.code+`"`) || got.Status.Code == int32(codes.OK) {
				t.Errorf("%v, want %d %s", got, row.status, row.code)
			}
		})
	}
	if _, err := d.Check(t.Context(), &auth.CheckRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a question about nothing: %v", err)
	}
}

// TestStrangersAsk: who asks says what the call is, so not everybody may.
func TestStrangersAsk(t *testing.T) {
	d := open(t, "10.0.0.0/8")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if got, err := d.Check(ctx, d.question(t)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger gets %v, %v", got, err)
	}
	if _, err := extauthz.New(nil, "x", nil); err == nil {
		t.Error("without networks it starts")
	}
}
