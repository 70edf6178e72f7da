package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
	"github.com/hourpass/hourpass/cmd/internal/verifierd"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/peers"
)

// faqToken is a token for everything on faq-bot.
func (h *house) faqToken() string {
	h.t.Helper()
	l := h.logIn("ada", "lovelace")
	return h.refresh(h.enrol(l, `{"grants":["faq"]}`), l.Refresh).Access
}

func (h *house) openAI(token string) openai.Client {
	return openai.NewClient(option.WithBaseURL(h.verifier+"/v1"), option.WithAPIKey(token), option.WithMaxRetries(0))
}

// TestOpenAIGoSDK: the official client, with only base URL and key changed.
func TestOpenAIGoSDK(t *testing.T) {
	h := startHouse(t)
	client, ctx := h.openAI(h.faqToken()), t.Context()
	chat := openai.ChatCompletionNewParams{Model: "faq-bot", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("How do I reset my password?")}}

	whole, err := client.Chat.Completions.New(ctx, chat)
	if err != nil || whole.Choices[0].Message.Content == "" || whole.Usage.TotalTokens == 0 {
		t.Fatalf("a chat: %+v, %v", whole, err)
	}
	var streamed strings.Builder
	pieces := 0
	stream := client.Chat.Completions.NewStreaming(ctx, chat)
	for stream.Next() {
		pieces++
		if c := stream.Current().Choices; len(c) > 0 {
			streamed.WriteString(c[0].Delta.Content)
		}
	}
	if stream.Err() != nil || streamed.String() != whole.Choices[0].Message.Content || pieces < 5 {
		t.Errorf("a streamed chat: %q in %d pieces, %v, want %q", streamed.String(), pieces, stream.Err(), whole.Choices[0].Message.Content)
	}
	if got, err := client.Completions.New(ctx, openai.CompletionNewParams{Model: "faq-bot", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("hello")}}); err != nil || got.Choices[0].Text == "" {
		t.Errorf("a completion: %+v, %v", got, err)
	}
	if got, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "faq-bot", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("hello")}}); err != nil || len(got.Data) != 1 || len(got.Data[0].Embedding) == 0 {
		t.Errorf("an embedding: %+v, %v", got, err)
	}
	if got, err := client.Responses.New(ctx, responses.ResponseNewParams{Model: "faq-bot", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("hello")}}); err != nil || got.OutputText() == "" {
		t.Errorf("a response: %+v, %v", got, err)
	}
	models, err := client.Models.List(ctx)
	if err != nil || len(models.Data) != 1 || models.Data[0].ID != "faq-bot" {
		t.Errorf("the models: %+v, %v, want only the one that the token may use", models, err)
	}
	if got, err := client.Models.Get(ctx, "faq-bot"); err != nil || got.ID != "faq-bot" {
		t.Errorf("the model: %+v, %v", got, err)
	}

	before := h.modelCalls.Load()
	chat.Model = "hr-bot"
	_, err = client.Chat.Completions.New(ctx, chat)
	wantAPIError(t, "another model", err, http.StatusForbidden, "insufficient_scope")
	stream = client.Chat.Completions.NewStreaming(ctx, chat)
	stream.Next()
	wantAPIError(t, "another model, streamed", stream.Err(), http.StatusForbidden, "insufficient_scope")
	_, err = client.Models.Get(ctx, "hr-bot")
	wantAPIError(t, "another model's card", err, http.StatusForbidden, "insufficient_scope")
	stranger := h.openAI("sk-something")
	_, err = stranger.Models.List(ctx)
	wantAPIError(t, "a key of another kind", err, http.StatusUnauthorized, "invalid_token")
	if h.modelCalls.Load() != before {
		t.Error("a refused call reached the model server")
	}
}

func wantAPIError(t *testing.T, why string, err error, status int, code string) {
	t.Helper()
	var api *openai.Error
	if !errors.As(err, &api) || api.StatusCode != status || api.Code != code || api.Message == "" {
		t.Errorf("%s: %v, want %d %s", why, err, status, code)
	}
}

// TestOpenAINodeSDK: the same of the official client for Node.
func TestOpenAINodeSDK(t *testing.T) {
	h := startHouse(t)
	token := h.faqToken()
	type report struct {
		Models json.RawMessage
		Chat   struct {
			Content string
			Error   *struct {
				Status int
				Code   string
			}
		}
		Stream struct {
			Content string
			Chunks  int
		}
	}
	run := func(model string) (out report) {
		text := peers.RunNode(t, "openai-sdk.mjs", map[string]string{"OPENAI_BASE_URL": h.verifier + "/v1", "OPENAI_API_KEY": token, "MODEL": model})
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return out
	}
	good := run("faq-bot")
	if string(good.Models) != `["faq-bot"]` || good.Chat.Content == "" || good.Stream.Content != good.Chat.Content || good.Stream.Chunks < 3 {
		t.Errorf("with the model that the token names: %+v (models %s)", good, good.Models)
	}
	if bad := run("hr-bot"); bad.Chat.Error == nil || bad.Chat.Error.Status != http.StatusForbidden || bad.Chat.Error.Code != "insufficient_scope" {
		t.Errorf("with another model: %+v", bad)
	}
}

// TestThirdImplementations: libraries that are not ours accept our tokens as
// what they are (RFC 9068), from the published key set alone.
func TestThirdImplementations(t *testing.T) {
	h := startHouse(t)
	token := h.faqToken()

	_, doc := h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(doc, &set); err != nil {
		t.Fatal(err)
	}
	parsed, err := josejwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims josejwt.Claims
	if err := parsed.Claims(set, &claims); err != nil {
		t.Fatalf("go-jose: %v", err)
	}
	if err := claims.Validate(josejwt.Expected{Issuer: h.issuer, AnyAudience: josejwt.Audience{"models"}, Subject: "corp:ada", Time: time.Now()}); err != nil {
		t.Errorf("go-jose: %v", err)
	}
	if len(parsed.Headers) != 1 || parsed.Headers[0].ExtraHeaders["typ"] != "at+jwt" || len(parsed.Headers[0].ExtraHeaders) != 1 {
		t.Errorf("the header is %+v, want alg, kid and typ alone", parsed.Headers)
	}

	var answer struct {
		Header  map[string]any
		Payload map[string]any
		Error   any
	}
	out := peers.RunNode(t, "jose-verify.mjs", map[string]string{"JWKS_URL": h.issuer + "/jwks.json", "ISSUER": h.issuer, "AUDIENCE": "models", "TOKEN": token})
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Error != nil || answer.Payload["sub"] != "corp:ada" {
		t.Errorf("npm jose: %s, %v", out, err)
	}
}

// TestTokens: what may pass as a token, and for whom.
func TestTokens(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"]}`)
	tok := h.refresh(k, l.Refresh)
	other := h.refresh(k, tok.Refresh, "audience", "other-models")
	elsewhere := startHouse(t)
	identity := h.forge.sign(h.forge.good(h.now()), nil)
	parts := strings.Split(tok.Access, ".")
	flipped := parts[2][:10] + map[bool]string{true: "A", false: "B"}[parts[2][10] != 'A'] + parts[2][11:]

	if status, body := h.call(tok.Access, "faq-bot"); status != http.StatusOK {
		t.Fatalf("a good token: %d %s", status, body)
	}
	for why, row := range map[string]struct {
		token, code string
	}{
		"none":                 {"", "missing_token"},
		"for another audience": {other.Access, "invalid_token"},
		"of another issuer":    {elsewhere.faqToken(), "invalid_token"},
		"an identity token":    {identity, "invalid_token"},
		"the machine key":      {k.Secret, "invalid_token"},
		"the login's token":    {l.Access, "invalid_token"},
		"a refresh token":      {other.Refresh, "invalid_token"},
		"a changed signature":  {parts[0] + "." + parts[1] + "." + flipped, "invalid_token"},
		"no signature":         {parts[0] + "." + parts[1] + ".", "invalid_token"},
		"padding":              {tok.Access + "=", "invalid_token"},
		"one part":             {parts[0], "invalid_token"},
		"very long":            {strings.Repeat("a", 3000), "invalid_token"},
		"alg none":             {"eyJhbGciOiJub25lIn0." + parts[1] + ".", "invalid_token"},
	} {
		status, body := h.call(row.token, "faq-bot")
		if code := openAICode(body); status != http.StatusUnauthorized || code != row.code {
			t.Errorf("%s: %d %s, want 401 %s", why, status, body, row.code)
		}
	}
	h.pass(time.Hour)
	h.stop("verifier") // To fetch the keys anew, which are an hour old.
	h.start("verifier", verifierd.Run)
	h.awaitReady(h.verifierOps)
	if status, body := h.call(tok.Access, "faq-bot"); status != http.StatusUnauthorized || openAICode(body) != "token_expired" {
		t.Errorf("an hour later: %d %s, want 401 token_expired", status, body)
	}
}

func openAICode(body []byte) string {
	var e struct{ Error struct{ Code string } }
	_ = json.Unmarshal(body, &e)
	return e.Error.Code
}

// TestNetworks: a token is good from its key's networks alone.
func TestNetworks(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	for networks, want := range map[string]int{`["127.0.0.0/8"]`: http.StatusOK, `["10.0.0.0/8"]`: http.StatusForbidden, `[]`: http.StatusForbidden, `null`: http.StatusOK} {
		k := h.enrol(l, `{"grants":["faq"],"ip_ranges":`+networks+`}`)
		tok := h.refresh(k, l.Refresh)
		l.Refresh = tok.Refresh
		if status, body := h.call(tok.Access, "faq-bot"); status != want {
			t.Errorf("a key of the networks %s: %d %s, want %d", networks, status, body, want)
		}
	}
}

// TestUpstreamTrouble: what a client sees when the model server fails.
func TestUpstreamTrouble(t *testing.T) {
	h := startHouse(t)
	token := h.faqToken()
	h.serveModel(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // Only then does net/http notice that the client has gone.
		switch r.Header.Get("Openai-Beta") {
		case "slow":
			<-r.Context().Done()
		case "dies", "dies within an event":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n"))
			if r.Header.Get("Openai-Beta") != "dies" {
				_, _ = w.Write([]byte("data: {\"choi"))
			}
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "our key is bad":
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	send := func(beta string) (*http.Response, string) {
		req := h.chatRequest(token, "faq-bot")
		req.Header.Set("OpenAI-Beta", beta)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body strings.Builder
		if _, err := bufio.NewReader(res.Body).WriteTo(&body); err != nil {
			t.Errorf("%s: reading the answer: %v", beta, err)
		}
		return res, body.String()
	}
	for beta, want := range map[string]struct {
		status int
		code   string
	}{
		"slow":           {http.StatusGatewayTimeout, "upstream_timeout"},
		"our key is bad": {http.StatusBadGateway, "upstream_error"},
	} {
		if res, body := send(beta); res.StatusCode != want.status || openAICode([]byte(body)) != want.code || res.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: %s %s, want %d %s", beta, res.Status, body, want.status, want.code)
		}
	}
	for _, beta := range []string{"dies", "dies within an event"} {
		res, body := send(beta)
		events := strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
		last, ok := strings.CutPrefix(events[len(events)-1], "data: ")
		if res.StatusCode != http.StatusOK || !ok || openAICode([]byte(last)) != "upstream_error" || !strings.HasPrefix(body, "data: {\"choices\"") {
			t.Errorf("%s: %s %q, want a last event that says so", beta, res.Status, body)
		}
	}

	// The SDK reports it as an error, not as an end.
	client := h.openAI(token)
	stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{
		Model: "faq-bot", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("x")},
	}, option.WithHeader("OpenAI-Beta", "dies"))
	for stream.Next() {
	}
	if stream.Err() == nil {
		t.Error("the SDK takes a stream that died for a whole one")
	}

	h.model.Close()
	if res, body := send(""); res.StatusCode != http.StatusBadGateway || openAICode([]byte(body)) != "upstream_error" {
		t.Errorf("down: %s %s, want 502 upstream_error", res.Status, body)
	}
}

func (h *house) chatRequest(token, model string) *http.Request {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, h.verifier+"/v1/chat/completions",
		strings.NewReader(`{"model":"`+model+`","stream":true,"messages":[{"role":"user","content":"hello"}]}`))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	return req
}

// TestIdPDownAtStart: the issuer starts, says so, and is ready when it is up.
func TestIdPDownAtStart(t *testing.T) {
	addr := freeAddr(t)
	h := newHouse(t)
	h.writeConfigs([]string{"issuer: " + h.idpURL, "issuer: http://" + addr, "issuer: " + h.forge.url, "issuer: http://" + freeAddr(t)})
	if err := issuerd.Init(t.Context(), h.options("issuer.yaml")); err != nil {
		t.Fatal(err)
	}
	h.start("issuer", issuerd.Run)
	h.await("the issuer to say that its provider is down", func() bool {
		status, body := h.readyz(h.issuerOps)
		return status == http.StatusServiceUnavailable && strings.Contains(body, "identity provider corp") && strings.Contains(body, "refused")
	})
	if status, _ := h.send(h.request(http.MethodGet, "/jwks.json", "", "")); status != http.StatusOK {
		t.Errorf("meanwhile the key set answers %d", status)
	}
	status, body := h.post("/authorize", "", nil)
	if status != http.StatusMethodNotAllowed {
		t.Errorf("POST /authorize: %d %s", status, body)
	}
	res, e := h.authorizePage(authorizeQuery(strings.Repeat("a", 43)), nil)
	if res.StatusCode != http.StatusServiceUnavailable || e.Code != "temporarily_unavailable" {
		t.Errorf("a login meanwhile: %s %+v, want 503", res.Status, e)
	}
	// The provider comes up where the issuer looks for it.
	serveDiscovery(t, addr)
	h.awaitReady(h.issuerOps)
}

// TestIssuerDownAtStart: the verifier starts, refuses, says so, and is ready when
// the issuer is up; with a snapshot it does not even need it.
func TestIssuerDownAtStart(t *testing.T) {
	h := startHouse(t)
	token := h.faqToken()
	h.stop("verifier")
	h.stop("issuer")
	snapshot := filepath.Join(h.dir, "key-set.json")

	h.start("verifier", verifierd.Run)
	h.awaitReady(h.verifierOps)
	if status, body := h.call(token, "faq-bot"); status != http.StatusOK {
		t.Errorf("with a snapshot and no issuer: %d %s", status, body)
	}
	h.stop("verifier")

	if err := os.Remove(snapshot); err != nil {
		t.Fatal(err)
	}
	h.start("verifier", verifierd.Run)
	h.await("the verifier to say that it has no keys", func() bool {
		status, body := h.readyz(h.verifierOps)
		return status == http.StatusServiceUnavailable && strings.Contains(body, "key_set")
	})
	if status, body := h.call(token, "faq-bot"); status != http.StatusServiceUnavailable || openAICode(body) != "keys_stale" {
		t.Errorf("without keys: %d %s, want 503 keys_stale", status, body)
	}
	h.start("issuer", issuerd.Run)
	h.awaitReady(h.verifierOps)
	if status, body := h.call(token, "faq-bot"); status != http.StatusOK {
		t.Errorf("with the issuer up again: %d %s", status, body)
	}
}

// TestAuditOfAWholeDay: one record for each decision, and no secret in any
// record, log or key set snapshot.
func TestAuditOfAWholeDay(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"]}`)
	tok := h.refresh(k, l.Refresh)
	identity := h.forge.sign(h.forge.good(h.now()), nil)
	h.post("/token", k.Secret, exchangeForm(identity))
	h.call(tok.Access, "faq-bot")
	h.call(tok.Access, "hr-bot")
	h.call("", "faq-bot")
	h.call(k.Secret, "faq-bot")
	h.await("the last call's record", func() bool { return len(h.records("verifier")) >= 4 })

	seen := map[string]int{}
	summary := map[string]int{}
	for _, r := range append(h.records("issuer"), h.records("verifier")...) {
		seen[r.Decision]++
		summary[r.Event+" "+r.Outcome]++
		if r.Event == "call" && (r.ClientIP != "127.0.0.1" || r.Status == 0) || r.Time.IsZero() {
			t.Errorf("a record lacks who or what: %+v", r)
		}
		if r.Event == "call" && r.Outcome == audit.Allow && (r.Key != k.ID || r.Identity != "corp:ada" || r.Model != "faq-bot" || r.Upstream != "toy" || r.UpstreamStatus != 200 || r.Bytes == 0) {
			t.Errorf("the record of the allowed call is %+v", r)
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("decision %s stands %d times", id, n)
		}
	}
	want := map[string]int{"login allow": 1, "session allow": 1, "key.create allow": 1, "exchange allow": 1, "exchange deny": 1, "call allow": 1, "call deny": 3}
	if fmt.Sprint(summary) != fmt.Sprint(want) {
		t.Errorf("the audit holds %v, want %v", summary, want)
	}

	secrets := map[string]string{
		"machine key": k.Secret, "its secret part": k.Secret[21:], "token": tok.Access, "refresh token": tok.Refresh, "first refresh token": l.Refresh,
		"login's token": l.Access, "identity token": identity, "client secret": "toy-secret", "upstream credential": modelKey, "password": "lovelace",
	}
	texts := map[string]string{"the programs' logs": h.logs.String()}
	for _, name := range []string{"issuer-audit.jsonl", "verifier-audit.jsonl", "key-set.json", "issuer.db", "issuer.db-wal"} {
		b, err := os.ReadFile(filepath.Join(h.dir, name))
		if errors.Is(err, os.ErrNotExist) && engine != "" && strings.HasPrefix(name, "issuer.db") {
			continue // The store is a server's.
		}
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(b)
	}
	for where, text := range texts {
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s hold the %s", where, what)
			}
		}
	}
}

// TestDrain: at SIGTERM, which ends the context, a stream goes on to its end and
// nothing new is taken.
func TestDrain(t *testing.T) {
	h := startHouse(t)
	token := h.faqToken()
	inside, goOn := make(chan struct{}), make(chan struct{})
	h.serveModel(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: 1\n\n"))
		_ = http.NewResponseController(w).Flush()
		close(inside)
		<-goOn
		_, _ = w.Write([]byte("data: [DONE]\n\n"))
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	res, err := http.DefaultClient.Do(h.chatRequest(token, "faq-bot").WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-inside
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		h.stop("verifier")
	}()
	h.await("the verifier to take no more", func() bool {
		_, err := http.Get(h.verifier + "/v1/models")
		var refused *url.Error
		return errors.As(err, &refused)
	})
	close(goOn)
	var body strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&body); err != nil || body.String() != "data: 1\n\ndata: [DONE]\n\n" {
		t.Errorf("the stream ended as %q, %v", body.String(), err)
	}
	<-stopped
}
