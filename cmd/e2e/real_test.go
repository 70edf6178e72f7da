//go:build real

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/peers"
)

// ollama is a real model server with two models of random weights.
type ollama struct {
	t       *testing.T
	program string
	url     string
	env     []string
}

func startOllama(t *testing.T) *ollama {
	t.Helper()
	out, err := exec.Command("../../scripts/ollama").Output()
	if err != nil {
		t.Fatalf("building Ollama: %v", err)
	}
	dir, addr := t.TempDir(), freeAddr(t)
	o := &ollama{t: t, program: strings.TrimSpace(string(out)), url: "http://" + addr, env: []string{
		"OLLAMA_HOST=" + addr, "OLLAMA_MODELS=" + filepath.Join(dir, "models"), "HOME=" + dir, "OLLAMA_NO_CLOUD=1", "OLLAMA_DEBUG=1",
	}}
	run(t, o.url+"/api/version", o.program, o.env, "serve")
	if out, err := exec.Command("go", "run", "./testdata/mkmodel", "-o", filepath.Join(dir, "tiny.gguf"), "-eos", "0").CombinedOutput(); err != nil {
		t.Fatalf("making a model: %v: %s", err, out)
	}
	// One thread: more would spin, and take the processors from the rest.
	if err := os.WriteFile(filepath.Join(dir, "Modelfile"), []byte("FROM ./tiny.gguf\nPARAMETER num_thread 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tiny-a", "tiny-b"} {
		cmd := exec.Command(o.program, "create", name, "-f", filepath.Join(dir, "Modelfile"))
		cmd.Env = append(os.Environ(), o.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("creating %s: %v: %s", name, err, out)
		}
	}
	return o
}

// models are those that the server has, asked directly.
func (o *ollama) models() string {
	o.t.Helper()
	res, err := http.Get(o.url + "/api/tags")
	if err != nil {
		o.t.Fatal(err)
	}
	defer res.Body.Close()
	var list struct{ Models []struct{ Name string } }
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil {
		o.t.Fatal(err)
	}
	var names []string
	for _, m := range list.Models {
		names = append(names, m.Name)
	}
	slices.Sort(names) // Ollama sorts them by time.
	return strings.Join(names, " ")
}

// TestOllama is what a user of a verified Ollama lives through, by the official
// SDKs and the server's own API.
func TestOllama(t *testing.T) {
	o := startOllama(t)
	l := newLone(t)
	l.start(fmt.Sprintf(`
upstreams:
  - {name: ollama, api: ollama, url: %q, models: [tiny-a, tiny-b]}
`, o.url))
	const scope = "chat:tiny-a completions:tiny-a embeddings:tiny-a"
	bearer := l.token(scope)
	client := openai.NewClient(option.WithBaseURL(l.url+"/v1/"), option.WithAPIKey(bearer), option.WithMaxRetries(0))
	question := openai.ChatCompletionNewParams{
		Model: "tiny-a", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Say something.")}, MaxTokens: openai.Int(8),
	}

	t.Run("usage", func(t *testing.T) {
		answer, err := client.Chat.Completions.New(t.Context(), question)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Model != "tiny-a" || answer.Choices[0].Message.Content == "" || answer.Usage.CompletionTokens != 8 || answer.Usage.PromptTokens == 0 {
			t.Errorf("answer %+v", answer)
		}
	})

	t.Run("a stream", func(t *testing.T) {
		asked := question
		asked.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
		stream := client.Chat.Completions.NewStreaming(t.Context(), asked)
		var all openai.ChatCompletionAccumulator
		chunks := 0
		for stream.Next() {
			chunks++
			all.AddChunk(stream.Current())
		}
		if err := stream.Err(); err != nil || chunks < 5 || all.Usage.CompletionTokens != 8 || all.Choices[0].Message.Content == "" {
			t.Errorf("%d chunks, usage %+v, %v", chunks, all.Usage, err)
		}
	})

	t.Run("the Node SDK", func(t *testing.T) {
		var got struct {
			Models any
			Chat   struct{ Model string }
			Stream struct{ Chunks int }
		}
		out := peers.RunNode(t, "openai-sdk.mjs", map[string]string{"OPENAI_BASE_URL": l.url + "/v1", "OPENAI_API_KEY": bearer, "MODEL": "tiny-a"})
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if fmt.Sprint(got.Models) != "[tiny-a]" || got.Chat.Model != "tiny-a" || got.Stream.Chunks < 5 {
			t.Errorf("%s", out)
		}
	})

	t.Run("names", func(t *testing.T) {
		for _, name := range []string{"tiny-a", "TINY-A", "tiny-a:latest", "Tiny-A:LATEST", "library/tiny-a", "registry.ollama.ai/library/tiny-a", "registry.ollama.ai/library/tiny-a:latest"} {
			asked := question
			asked.Model = name
			if answer, err := client.Chat.Completions.New(t.Context(), asked); err != nil || answer.Model != "tiny-a" {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, status := range map[string]int{"tiny-b": 403, "TINY-B:latest": 403, "tiny-a:other": 403, "tiny-a:cloud": 403, "other/tiny-a": 403, "evil.example/library/tiny-a": 403} {
			asked := question
			asked.Model = name
			_, err := client.Chat.Completions.New(t.Context(), asked)
			var refused *openai.Error
			if !errors.As(err, &refused) || refused.StatusCode != status {
				t.Errorf("%s: %v, want %d", name, err, status)
			}
		}
	})

	t.Run("its own API", func(t *testing.T) {
		res := l.post(t.Context(), bearer, "/api/chat", `{"model":"tiny-a:latest","messages":[{"role":"user","content":"hi"}],"options":{"num_predict":4}}`)
		defer res.Body.Close()
		lines, last := 0, ""
		for s := bufio.NewScanner(res.Body); s.Scan(); lines++ {
			last = s.Text()
		}
		if res.StatusCode != 200 || lines < 3 || !strings.Contains(last, `"done":true`) || !strings.Contains(last, `"eval_count":4`) {
			t.Errorf("%s, %d lines, the last %s", res.Status, lines, last)
		}
	})

	t.Run("bounds", func(t *testing.T) {
		bounded := l.token(scope, func(c claims) { c["par"] = claims{"max_tokens": 4, "clamp": true} })
		for path, body := range map[string]string{
			"/v1/chat/completions": `{"model":"tiny-a","messages":[{"role":"user","content":"hi"}],"max_tokens":500}`,
			"/v1/completions":      `{"model":"tiny-a","prompt":"hi"}`,
		} {
			res := l.post(t.Context(), bounded, path, body)
			var answer struct {
				Usage struct {
					CompletionTokens int `json:"completion_tokens"`
				}
			}
			err := json.NewDecoder(res.Body).Decode(&answer)
			res.Body.Close()
			if err != nil || answer.Usage.CompletionTokens != 4 {
				t.Errorf("%s: %+v, %v", path, answer, err)
			}
		}
		res := l.post(t.Context(), bounded, "/api/generate", `{"model":"tiny-a","prompt":"hi","stream":false}`)
		var answer struct {
			EvalCount int `json:"eval_count"`
		}
		err := json.NewDecoder(res.Body).Decode(&answer)
		res.Body.Close()
		if err != nil || answer.EvalCount != 4 {
			t.Errorf("/api/generate: %+v, %v", answer, err)
		}
	})

	t.Run("a client that leaves", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		res := l.post(ctx, bearer, "/v1/chat/completions", `{"model":"tiny-a","stream":true,"messages":[{"role":"user","content":"hi"}],"max_tokens":4000}`)
		if _, err := io.ReadFull(res.Body, make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		leave()
		res.Body.Close()
		began := time.Now()
		for deadline := began.Add(10 * time.Second); !l.recorded("client_gone"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the call goes on")
			}
		}
		// The one slot of the server is free again: the next call need not wait for
		// 4000 tokens.
		if _, err := client.Chat.Completions.New(t.Context(), question); err != nil {
			t.Error(err)
		}
	})

	t.Run("its administration is closed", func(t *testing.T) {
		before := o.models()
		all := l.token(scope + " admin:tiny-a admin:ollama chat:tiny-b")
		for _, row := range []struct{ method, path, body string }{
			{"DELETE", "/api/delete", `{"model":"tiny-a"}`},
			{"POST", "/api/delete", `{"model":"tiny-a"}`},
			{"POST", "/api/copy", `{"source":"tiny-b","destination":"tiny-a2"}`},
			{"POST", "/api/create", `{"model":"tiny-a2","from":"tiny-b"}`},
			{"POST", "/api/pull", `{"model":"tiny-a"}`},
			{"POST", "/api/push", `{"model":"tiny-a"}`},
			{"POST", "/api/blobs/sha256:" + strings.Repeat("0", 64), "x"},
			{"GET", "/api/ps", ""},
			{"POST", "/api/generate", `{"model":"tiny-a","keep_alive":0}`},
		} {
			req, err := http.NewRequest(row.method, l.url+row.path, strings.NewReader(row.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+all)
			req.Header.Set("Content-Type", "application/json")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode < 400 {
				t.Errorf("%s %s = %d", row.method, row.path, res.StatusCode)
			}
		}
		if after := o.models(); after != before {
			t.Errorf("the models were %s and are %s", before, after)
		}
	})
}

func (l *lone) post(ctx context.Context, bearer, path, body string) *http.Response {
	l.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	return res
}

// recorded tells whether some call ended for that reason.
func (l *lone) recorded(reason string) bool {
	list, err := audit.Read(filepath.Join(l.dir, "audit-1.jsonl"))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, r := range list {
		if r.Reason == reason {
			return true
		}
	}
	return false
}
