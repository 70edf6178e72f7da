// Package toymodel is the model server of the local demo: it speaks the OpenAI
// API well enough for the official SDKs, and answers like a small help desk that
// has read one page. The same request always gets the same bytes.
//
// It owns its answers and how they are said on the wire, and it wants the one
// credential that only a verifier should know. It knows nothing of tokens,
// scopes or people. Each API has its file; the answers are made in answer.go.
// Start reading at [New].
package toymodel

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// created dates every model and answer: 2026-01-01 UTC. A clock would make two
// equal answers differ.
const created = 1_767_225_600

// Config is what a model server is made from.
type Config struct {
	// Models are the names that are served, "faq-bot" or "team/faq-bot:v1".
	// Any other is 404.
	Models []string

	// Credential must come with every request, as "Authorization: Bearer …":
	// it shows that nobody gets past the verifier. Empty: none is asked for.
	Credential string

	// Pace is how long to wait before each piece of a streamed answer after the
	// first. Zero: no wait.
	Pace time.Duration
}

// New returns a handler for
//
//	GET  /v1/models, /v1/models/{id}
//	POST /v1/chat/completions, /v1/completions, /v1/responses   streamed on request
//	POST /v1/embeddings
func New(cfg Config) http.Handler {
	s := &server{cfg}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/models", s.route(s.models))
	mux.Handle("GET /v1/models/{id...}", s.route(s.model)) // An id may hold slashes.
	mux.Handle("POST /v1/chat/completions", s.route(s.chat))
	mux.Handle("POST /v1/completions", s.route(s.completions))
	mux.Handle("POST /v1/responses", s.route(s.responses))
	mux.Handle("POST /v1/embeddings", s.route(s.embeddings))
	mux.Handle("/", s.route(func(http.ResponseWriter, *http.Request) error {
		return refuse(http.StatusNotFound, "unknown_url", "There is no such URL here.")
	}))
	return mux
}

type server struct{ cfg Config }

// A refusal is an error in OpenAI's shape.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// route adapts a handler that returns its refusal, behind the credential. They
// return nothing but refusals: an answer that has begun can't be taken back.
func (s *server) route(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.authorize(r)
		if err == nil {
			err = h(w, r)
		}
		var bad *refusal
		if errors.As(err, &bad) {
			reply(w, bad.status, object{"error": object{
				"message": bad.message, "type": "invalid_request_error", "param": nil, "code": bad.code,
			}})
		}
	})
}

// authorize never repeats what came instead of the credential.
func (s *server) authorize(r *http.Request) error {
	got, want := sha256.Sum256([]byte(r.Header.Get("Authorization"))), sha256.Sum256([]byte("Bearer "+s.cfg.Credential))
	if s.cfg.Credential != "" && subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return refuse(http.StatusUnauthorized, "invalid_api_key", "The model server wants its credential: call the verifier instead.")
	}
	return nil
}

// serves refuses a model that is not on the list.
func (s *server) serves(model string) error {
	if model == "" {
		return refuse(http.StatusBadRequest, "missing_model", "You must name a model.")
	}
	if !slices.Contains(s.cfg.Models, model) {
		return refuse(http.StatusNotFound, "model_not_found", "The model %q does not exist or you do not have access to it.", model)
	}
	return nil
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) error {
	list := []object{}
	for _, id := range s.cfg.Models {
		list = append(list, describe(id))
	}
	reply(w, http.StatusOK, object{"object": "list", "data": list})
	return nil
}

func (s *server) model(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := s.serves(id); err != nil {
		return err
	}
	reply(w, http.StatusOK, describe(id))
	return nil
}

func describe(id string) object {
	return object{"id": id, "object": "model", "created": created, "owned_by": "toymodel"}
}

// object is a JSON object on its way out. Its members are written in the order
// of their names, so equal objects are equal bytes.
type object map[string]any

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // The client may have gone; nothing is left to do.
}

// decode reads the whole body into v, before any answer begins, and returns a
// name for this request: a digest of the body.
func decode(w http.ResponseWriter, r *http.Request, v any) (name string, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return "", refuse(http.StatusRequestEntityTooLarge, "request_too_large", "The body is larger than %d bytes.", maxBody)
	}
	if err != nil {
		return "", refuse(http.StatusBadRequest, "bad_body", "The body did not arrive whole.")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return "", refuse(http.StatusBadRequest, "invalid_json", "The body is not the JSON that this URL takes.")
	}
	digest := sha256.Sum256(body)
	return hex.EncodeToString(digest[:12]), nil
}
