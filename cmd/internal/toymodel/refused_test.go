package toymodel_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
)

// TestRefusals: every refusal is an error that the SDK understands.
func TestRefusals(t *testing.T) {
	client, url := start(t)
	unknown := ask(question)
	unknown.Model = "gpt-4"
	_, err := client.Chat.Completions.New(t.Context(), unknown)
	wantRefusal(t, err, http.StatusNotFound, "model_not_found")

	for name, key := range map[string]string{"wrong": "guess", "longer": credential + "x", "shorter": credential[:8]} {
		other := sdk(url, key)
		_, err := other.Chat.Completions.New(t.Context(), ask(question))
		wantRefusal(t, err, http.StatusUnauthorized, "invalid_api_key")
		if err != nil && strings.Contains(err.Error(), key) {
			t.Errorf("%s: the refusal repeats the credential", name)
		}
	}
	none, err := http.Get(url + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	none.Body.Close()
	if none.StatusCode != http.StatusUnauthorized {
		t.Errorf("no credential: %d, want 401", none.StatusCode)
	}

	for _, test := range []struct {
		name, path, body string
		status           int
		code             string
	}{
		{"no model", "/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}]}`, http.StatusBadRequest, "missing_model"},
		{"no messages", "/v1/chat/completions", `{"model":"faq-bot"}`, http.StatusBadRequest, "empty_array"},
		{"no input", "/v1/responses", `{"model":"faq-bot"}`, http.StatusBadRequest, "missing_input"},
		{"not JSON", "/v1/completions", `{"model":`, http.StatusBadRequest, "invalid_json"},
		{"two JSON values", "/v1/completions", `{"model":"faq-bot"}{}`, http.StatusBadRequest, "invalid_json"},
		{"too large", "/v1/completions", `{"prompt":"` + strings.Repeat("x", 1<<20) + `"}`, http.StatusRequestEntityTooLarge, "request_too_large"},
		{"no such API", "/v1/files", `{}`, http.StatusNotFound, "unknown_url"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, body := post(t, url+test.path, test.body)
			if status != test.status || !strings.Contains(body, `"code":"`+test.code+`"`) {
				t.Errorf("%d %s, want %d %s", status, body, test.status, test.code)
			}
		})
	}
}

func wantRefusal(t *testing.T, err error, status int, code string) {
	t.Helper()
	var got *openai.Error
	if !errors.As(err, &got) || got.StatusCode != status || got.Code != code || got.Message == "" {
		t.Errorf("error = %v, want %d %s", err, status, code)
	}
}

// post is for what the SDK would not send.
func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	return call(t, http.MethodPost, url, body)
}

func call(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+credential)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

func words(s string) int64 { return int64(len(strings.Fields(s))) }
