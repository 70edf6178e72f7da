// Package reply writes the HTTP answers of the issuer, so that every refusal
// looks the same to a client and is logged in one place.
package reply

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Refusal is an error fit to be shown. The client sees Status, Code and
// Detail; Err stays with the operator, in the log.
type Refusal struct {
	Status     int           // HTTP status.
	Code       string        // An OAuth error code, such as "invalid_request" (RFC 6749, section 5.2).
	Detail     string        // One sentence for the client's developer. Nothing that the client sent.
	Decision   string        // The decision id in the audit. May be empty.
	RetryAfter time.Duration // When to try again. Zero: not said.
	Err        error         // The cause. May be nil.
}

func (r *Refusal) Error() string {
	if r.Err == nil {
		return fmt.Sprintf("%s: %s", r.Code, r.Detail)
	}
	return fmt.Sprintf("%s: %s: %v", r.Code, r.Detail, r.Err)
}

func (r *Refusal) Unwrap() error { return r.Err }

// AsRefusal returns err as a refusal. One that is not a [Refusal] is our fault,
// not the client's, and becomes a bare 500.
func AsRefusal(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return &Refusal{Status: http.StatusInternalServerError, Code: "server_error", Detail: "Something went wrong on our side.", Err: err}
}

// Handler adapts a handler that returns its failure instead of writing it.
func Handler(log *slog.Logger, h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			Error(log, w, r, err)
		}
	})
}

// Problems is [Handler] for an API: failures are written as application/
// problem+json (RFC 9457), with the code in their type and beside it.
func Problems(log *slog.Logger, h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		ref := begin(log, w, r, err)
		body := map[string]any{
			"type": "urn:hourpass:problem:" + ref.Code, "title": http.StatusText(ref.Status), "status": ref.Status,
			"code": ref.Code, "detail": ref.Detail,
		}
		if ref.Decision != "" {
			body["decision_id"] = ref.Decision
		}
		write(w, "application/problem+json", ref.Status, body)
	})
}

// Error logs err in full and answers with what the client may see of it.
func Error(log *slog.Logger, w http.ResponseWriter, r *http.Request, err error) {
	ref := begin(log, w, r, err)
	body := map[string]string{"error": ref.Code, "error_description": ref.Detail}
	if ref.Decision != "" {
		body["decision_id"] = ref.Decision
	}
	JSON(w, ref.Status, body)
}

// begin logs a failure and sets the headers that its kind wants.
func begin(log *slog.Logger, w http.ResponseWriter, r *http.Request, err error) *Refusal {
	ref := AsRefusal(err)
	level := slog.LevelInfo
	if ref.Status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	log.LogAttrs(r.Context(), level, "refused", slog.String("path", r.URL.Path), slog.Int("status", ref.Status),
		slog.String("code", ref.Code), slog.String("decision", ref.Decision), slog.String("err", err.Error()))
	if ref.Code == "invalid_client" { // RFC 6749, section 5.2.
		w.Header().Set("WWW-Authenticate", `Basic realm="Hourpass"`)
	}
	if ref.Status == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer error=%q", ref.Code))
	}
	RetryAfter(w, ref)
	return ref
}

// RetryAfter sets the header of that name where the refusal says when to try
// again, in whole seconds.
func RetryAfter(w http.ResponseWriter, ref *Refusal) {
	if ref.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((ref.RetryAfter+time.Second-1)/time.Second)))
	}
}

// Sentence makes the text of a reason one: with a capital and a full stop.
func Sentence(err error) string {
	text := err.Error()
	if text == "" {
		return ""
	}
	if 'a' <= text[0] && text[0] <= 'z' {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	return text + "."
}

// JSON writes v with the given status. Answers of an identity service are
// never to be stored, so it always forbids caching.
func JSON(w http.ResponseWriter, status int, v any) { write(w, "application/json", status, v) }

func write(w http.ResponseWriter, contentType string, status int, v any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache") // RFC 6749, section 5.1, still asks for it.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // The client may have gone; nothing is left to do.
}
