package issuer

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/internal/serve"
	"github.com/hourpass/hourpass/issuer/internal/pages"
)

// routes is the whole surface of the issuer, one block per level of trust.
func (s *Server) routes() http.Handler {
	r := s.router()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, _, err := reqtarget.Split(req.RequestURI); err != nil {
			reply.Error(s.Log, w, req, &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: "The request target is not in canonical form.", Err: err})
			return
		}
		r.ServeHTTP(w, req)
	})
}

func (s *Server) router() *mux.Router {
	// Targets are canonical by the time the router sees them; it must not clean
	// them, or it would answer with redirects of its own.
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	handle := func(method, path string, h func(http.ResponseWriter, *http.Request) error) {
		r.Handle(path, reply.Handler(s.Log, refusing(h))).Methods(method)
	}
	page := func(method, path string, h func(http.ResponseWriter, *http.Request) error) {
		r.Handle(path, s.page(refusing(h))).Methods(method)
	}
	api := func(method, path string, h func(http.ResponseWriter, *http.Request) error) {
		r.Handle(path, reply.Problems(s.Log, refusing(h))).Methods(method)
	}

	// Anybody: public documents, and who found a key.
	r.Handle("/jwks.json", s.KeySet).Methods(http.MethodGet, http.MethodHead)
	r.Handle("/.well-known/oauth-authorization-server", s.metadata()).Methods(http.MethodGet, http.MethodHead)
	r.Handle("/.well-known/openid-configuration", s.metadata()).Methods(http.MethodGet, http.MethodHead)
	r.Handle("/openapi.json", document(openapi)).Methods(http.MethodGet, http.MethodHead)
	handle(http.MethodGet, "/revocations", s.revocations)
	handle(http.MethodHead, "/revocations", s.revocations)
	handle(http.MethodPost, "/leaked", s.leaked)
	r.HandleFunc("/style.css", pages.Style).Methods(http.MethodGet)

	// A browser: the login at the identity provider.
	handle(http.MethodGet, "/authorize", s.authorize)
	page(http.MethodGet, "/callback/{provider}", s.callback)
	page(http.MethodGet, "/device", s.enterPage)
	page(http.MethodPost, "/device", s.enterCode)
	page(http.MethodPost, "/device/confirm", s.confirmDevice)

	// A client that authenticates itself, or proves a login, within the request.
	handle(http.MethodPost, "/token", s.token)
	handle(http.MethodPost, "/device_authorization", s.askDevice)
	handle(http.MethodPost, "/revoke", s.revoke)
	handle(http.MethodPost, "/introspect", s.introspect)
	handle(http.MethodPost, "/revocations/ack", s.acknowledge)
	handle(http.MethodPost, "/ledger", s.leases)
	handle(http.MethodPost, "/usage", s.takeUsage)

	// A person with a login; what they may do is their role's to say.
	api(http.MethodGet, "/v1/me", s.me)
	api(http.MethodPost, "/v1/me/logout", s.logOut)
	api(http.MethodGet, "/v1/keys", s.listKeys)
	api(http.MethodPost, "/v1/keys", s.createKey)
	api(http.MethodGet, "/v1/keys/{id}", s.onKey("key.show", s.showKey))
	api(http.MethodPatch, "/v1/keys/{id}", s.onKey("key.edit", s.editKey))
	api(http.MethodDelete, "/v1/keys/{id}", s.onKey("key.delete", s.deleteKey))
	api(http.MethodPost, "/v1/keys/{id}/disable", s.onKey("key.disable", s.disableKey))
	api(http.MethodPost, "/v1/keys/{id}/enable", s.onKey("key.enable", s.enableKey))
	api(http.MethodPost, "/v1/keys/{id}/revoke", s.onKey("key.revoke", s.revokeKey))
	api(http.MethodPost, "/v1/keys/{id}/rotate", s.onKey("key.rotate", s.rotateKey))
	api(http.MethodDelete, "/v1/keys/{id}/secrets/{number}", s.onKey("key.end_secret", s.endSecret))
	api(http.MethodGet, "/v1/usage", s.usage)
	api(http.MethodGet, "/v1/watch/replay", s.replayWatch)
	api(http.MethodGet, "/v1/revocations", s.listRevocations)
	api(http.MethodPost, "/v1/revocations", s.revokeAny)
	api(http.MethodGet, "/v1/verifiers", s.listVerifiers)
	api(http.MethodGet, "/v1/signing-keys", s.listSigningKeys)
	api(http.MethodPost, "/v1/signing-keys/rotate", s.rotateSigningKey)
	api(http.MethodPost, "/v1/signing-keys/{kid}/taint", s.taintSigningKey)

	r.NotFoundHandler = reply.Handler(s.Log, func(http.ResponseWriter, *http.Request) error {
		return &reply.Refusal{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such endpoint."}
	})
	r.MethodNotAllowedHandler = reply.Handler(s.Log, func(http.ResponseWriter, *http.Request) error {
		return &reply.Refusal{Status: http.StatusMethodNotAllowed, Code: "invalid_request", Detail: "This endpoint does not take that method."}
	})
	return r
}

// Ops serves what the platform asks, on a listener of its own.
func Ops(ready http.Handler) http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.HandleFunc("/livez", serve.Live).Methods(http.MethodGet)
	r.Handle("/readyz", ready).Methods(http.MethodGet)
	return r
}

// refusing turns the failures of a handler into refusals, by the one table.
func refusing(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := h(w, r)
		var ref *reply.Refusal
		if err == nil || errors.As(err, &ref) {
			return err
		}
		ref, _ = refusal(err)
		return ref
	}
}

// page adapts a handler whose failures a person sees in a browser.
func (s *Server) page(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		ref := reply.AsRefusal(err)
		s.Log.Info("refused", "path", r.URL.Path, "status", ref.Status, "code", ref.Code, "decision", ref.Decision, "err", err.Error())
		text := ref.Detail
		if ref.Decision != "" {
			text += " (" + ref.Decision + ")"
		}
		reply.RetryAfter(w, ref)
		if err := pages.Write(w, ref.Status, pages.Done{Title: "That did not work", Text: text}); err != nil {
			s.Log.Error("showing a page", "err", err.Error())
		}
	})
}

// metadata serves RFC 8414 and OpenID Connect Discovery 1.0 from memory.
func (s *Server) metadata() http.Handler {
	methods := []string{"client_secret_basic", "client_secret_post", "private_key_jwt"}
	algorithms := []string{"ES256", "EdDSA", "RS256"}
	doc, err := json.Marshal(map[string]any{
		"issuer":                                                   s.URL,
		"authorization_endpoint":                                   s.URL + "/authorize",
		"token_endpoint":                                           s.URL + "/token",
		"device_authorization_endpoint":                            s.URL + "/device_authorization",
		"revocation_endpoint":                                      s.URL + "/revoke",
		"introspection_endpoint":                                   s.URL + "/introspect",
		"jwks_uri":                                                 s.URL + "/jwks.json",
		"response_types_supported":                                 []string{"code"},
		"response_modes_supported":                                 []string{"query"},
		"grant_types_supported":                                    []string{grantExchange, grantBearer, grantClient, grantCode, grantDevice, grantRefresh},
		"token_endpoint_auth_methods_supported":                    append([]string{"none"}, methods...),
		"token_endpoint_auth_signing_alg_values_supported":         algorithms,
		"revocation_endpoint_auth_methods_supported":               append([]string{"none"}, methods...),
		"revocation_endpoint_auth_signing_alg_values_supported":    algorithms,
		"introspection_endpoint_auth_methods_supported":            methods,
		"introspection_endpoint_auth_signing_alg_values_supported": algorithms,
		"code_challenge_methods_supported":                         []string{"S256"},
		"authorization_response_iss_parameter_supported":           true,
		"subject_types_supported":                                  []string{"public"},
		"id_token_signing_alg_values_supported":                    []string{"ES256"},
	})
	if err != nil {
		panic(err) // Unreachable: texts only.
	}
	return document(doc)
}

// openapi describes the whole surface (OpenAPI 3.1).
//
//go:embed openapi.json
var openapi []byte

// document serves a public JSON document from memory.
func document(doc []byte) http.Handler {
	sum := sha256.Sum256(doc)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Access-Control-Allow-Origin", "*") // It is public, and browsers' clients read it.
		h.Set("X-Content-Type-Options", "nosniff")
		// Jittered, so that many verifiers that started together do not stay so.
		h.Set("Cache-Control", "public, max-age="+strconv.Itoa(documentMaxAge-rand.IntN(documentMaxAge/4))) //nolint:gosec // Chance, not secrecy.
		h.Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(doc)) // Knows HEAD and If-None-Match.
	})
}

// documentMaxAge is how many seconds caches may keep a document.
const documentMaxAge = 300
