package reply_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/reply"
)

// TestError: the client sees the refusal, the operator its cause, and of what is
// no refusal the client sees nothing.
func TestError(t *testing.T) {
	cause := errors.New("the secret cause")
	type answer struct {
		err    error
		status int
		body   string
		header [2]string
	}
	for why, row := range map[string]answer{
		"a refusal": {
			&reply.Refusal{Status: 400, Code: "invalid_scope", Detail: "Too wide.", Decision: "D", Err: cause},
			400, `{"decision_id":"D","error":"invalid_scope","error_description":"Too wide."}`,
			[2]string{"Cache-Control", "no-store"},
		},
		"not authenticated": {
			&reply.Refusal{Status: 401, Code: "invalid_token", Detail: "No."}, 401, `"invalid_token"`, [2]string{"WWW-Authenticate", `Bearer error="invalid_token"`},
		},
		"later": {
			&reply.Refusal{Status: 503, Code: "x", Detail: "Later.", RetryAfter: 1500 * time.Millisecond}, 503, `"x"`, [2]string{"Retry-After", "2"},
		},
		"our own fault": {cause, 500, `"server_error"`, [2]string{"Content-Type", "application/json"}},
	} {
		var log strings.Builder
		w := httptest.NewRecorder()
		h := reply.Handler(slog.New(slog.NewTextHandler(&log, nil)), func(http.ResponseWriter, *http.Request) error { return row.err })
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/x", nil))
		if w.Code != row.status || !strings.Contains(w.Body.String(), row.body) || w.Header().Get(row.header[0]) != row.header[1] {
			t.Errorf("%s: %d %s %v", why, w.Code, w.Body, w.Header())
		}
		if strings.Contains(w.Body.String(), "secret cause") {
			t.Errorf("%s: the client sees the cause: %s", why, w.Body)
		}
		if errors.Is(row.err, cause) && !strings.Contains(log.String(), "secret cause") {
			t.Errorf("%s: the operator does not see the cause: %s", why, log.String())
		}
	}
}

func TestSentence(t *testing.T) {
	for in, want := range map[string]string{"the key is gone": "The key is gone.", "": ""} {
		if got := reply.Sentence(errors.New(in)); got != want {
			t.Errorf("Sentence(%q) = %q, want %q", in, got, want)
		}
	}
}
