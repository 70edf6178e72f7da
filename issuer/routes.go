package issuer

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/internal/serve"
)

// routes is the whole surface of the issuer, one block per level of trust.
func (s *Server) routes() http.Handler {
	// Targets are canonical by the time the router sees them; it must not clean
	// them, or it would answer with redirects of its own.
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	handle := func(method, path string, h func(http.ResponseWriter, *http.Request) error) {
		r.Handle(path, reply.Handler(s.Log, h)).Methods(method)
	}

	// Anybody: public documents.
	r.Handle("/jwks.json", s.KeySet).Methods(http.MethodGet, http.MethodHead)
	handle(http.MethodGet, "/.well-known/oauth-authorization-server", s.metadata)
	handle(http.MethodGet, "/.well-known/openid-configuration", s.metadata)

	// A browser: the login at the identity provider.
	handle(http.MethodGet, "/authorize", s.authorize)
	handle(http.MethodGet, "/callback/{provider}", s.callback)

	// A client that authenticates itself, or proves a login, within the request.
	handle(http.MethodPost, "/token", s.token)

	// A person with a fresh login.
	handle(http.MethodGet, "/v1/keys", s.listKeys)
	handle(http.MethodPost, "/v1/keys", s.createKey)
	handle(http.MethodPost, "/v1/keys/{id}/disable", s.disableKey)

	r.NotFoundHandler = reply.Handler(s.Log, func(http.ResponseWriter, *http.Request) error {
		return &reply.Refusal{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such endpoint."}
	})
	r.MethodNotAllowedHandler = reply.Handler(s.Log, func(http.ResponseWriter, *http.Request) error {
		return &reply.Refusal{Status: http.StatusMethodNotAllowed, Code: "invalid_request", Detail: "This endpoint does not take that method."}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, _, err := reqtarget.Split(req.RequestURI); err != nil {
			reply.Error(s.Log, w, req, &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: "The request target is not in canonical form.", Err: err})
			return
		}
		r.ServeHTTP(w, req)
	})
}

// Ops serves what the platform asks, on a listener of its own.
func Ops(ready http.Handler) http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.HandleFunc("/livez", serve.Live).Methods(http.MethodGet)
	r.Handle("/readyz", ready).Methods(http.MethodGet)
	return r
}

// metadata answers RFC 8414 and OpenID Connect Discovery 1.0.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Access-Control-Allow-Origin", "*") // It is public, and browsers' clients read it.
	reply.JSON(w, http.StatusOK, map[string]any{
		"issuer":                                         s.URL,
		"authorization_endpoint":                         s.URL + "/authorize",
		"token_endpoint":                                 s.URL + "/token",
		"jwks_uri":                                       s.URL + "/jwks.json",
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{grantExchange, grantCode, grantRefresh},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post", "none"},
		"code_challenge_methods_supported":               []string{"S256"},
		"authorization_response_iss_parameter_supported": true,
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          []string{"ES256"},
	})
	return nil
}
