package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
)

// walk shows the way of a token, step by step, and fails where a step does not
// come out as it must.
func walk(ctx context.Context, p *page, t *twin) error {
	p.printf("%s  everything on this machine, its data in %s\n", p.paint(bold, "Hourpass"), t.dir)
	v := vars{}
	for _, step := range []func(context.Context, *page, *twin, vars) error{
		logIn, enrol, exchange, allowedCall, refusedModel, oneFactor, auditTrail,
	} {
		if err := step(ctx, p, t, v); err != nil {
			return err
		}
	}
	return p.err
}

func logIn(ctx context.Context, p *page, t *twin, v vars) error {
	p.step("Ada logs in at the identity provider: once for hourpass, once to have an ID token")
	for _, c := range []call{
		{url: t.portal + "/login", user: user + ":" + password, login: true, into: "LOGIN"},
		{url: t.portal + "/identity", user: user + ":" + password, login: true, into: "IDENTITY"},
	} {
		p.command(c.line())
		if _, err := c.do(ctx, v, nil); err != nil {
			return err
		}
	}
	p.good("logged in; the login itself opens no model: it only lets Ada manage keys")
	return nil
}

func enrol(ctx context.Context, p *page, t *twin, v vars) error {
	p.step("She enrols a machine key, bound to her identity")
	c := call{url: t.issuer + "/v1/keys", bearer: "$LOGIN", json: `{"grants":["faq"],"description":"demo"}`, into: "KEY", member: "key"}
	p.command(c.line())
	if _, err := c.do(ctx, v, nil); err != nil {
		return err
	}
	p.command("KEY_ID=${KEY:4:16}")
	v["KEY_ID"] = v["KEY"][4:20]
	p.good("key %s…, for the grant faq; its secret is shown this once", v["KEY"][:21])
	return nil
}

// exchangeCall swaps key and identity for a token; either may be left out.
func exchangeCall(t *twin, key, identity bool) call {
	c := call{url: t.issuer + "/token", form: [][2]string{
		{"grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"},
	}}
	if key {
		c.user = "$KEY_ID:$KEY"
	}
	if identity {
		c.form = append(c.form, [2]string{"subject_token_type", "urn:ietf:params:oauth:token-type:id_token"},
			[2]string{"subject_token", "$IDENTITY"})
	}
	return c
}

func exchange(ctx context.Context, p *page, t *twin, v vars) error {
	p.step("Key and identity together become a token (RFC 8693)")
	c := exchangeCall(t, true, true)
	c.into, c.member = "TOKEN", "access_token"
	p.command(c.line())
	if _, err := c.do(ctx, v, nil); err != nil {
		return err
	}
	p.good("a token of %d bytes; what it claims:", len(v["TOKEN"]))
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(v["TOKEN"], ".")[1])
	if err != nil {
		return err
	}
	var claims bytes.Buffer
	if err := json.Indent(&claims, payload, "", "  "); err != nil {
		return err
	}
	p.show(claims.String())
	return nil
}

func chat(t *twin, model string) call {
	return call{
		url: t.verifier + "/v1/chat/completions", bearer: "$TOKEN", stream: true,
		json: `{"model":"` + model + `","stream":true,"messages":[{"role":"user","content":"How do I reset my password?"}]}`,
	}
}

func allowedCall(ctx context.Context, p *page, t *twin, v vars) error {
	p.step("A streamed call to the model that the token names")
	c := chat(t, faqBot)
	p.command(c.line())
	p.printf("   %s ", p.paint(green, "✓"))
	a, err := c.do(ctx, v, func(chunk []byte) { p.printf("%s", words(chunk)) })
	p.printf("\n")
	switch {
	case err != nil:
		return err
	case a.status != http.StatusOK || a.chunks < 3:
		return fmt.Errorf("the streamed call came out as %d in %d pieces: %s", a.status, a.chunks, a.body)
	}
	p.good("streamed in %d pieces, each as the model said it", a.chunks)
	return nil
}

// words are the text of the events in a chunk of a stream. The toy model sends
// each event in a piece of its own.
func words(chunk []byte) string {
	var text strings.Builder
	for line := range bytes.Lines(chunk) {
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		var event struct {
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
			} `json:"choices"`
		}
		if ok && json.Unmarshal(data, &event) == nil && len(event.Choices) > 0 {
			text.WriteString(event.Choices[0].Delta.Content)
		}
	}
	return text.String()
}

func refusedModel(ctx context.Context, p *page, t *twin, v vars) error {
	p.step("The same call to another model")
	return refused(ctx, p, v, chat(t, hrBot), http.StatusForbidden)
}

func oneFactor(ctx context.Context, p *page, t *twin, v vars) error {
	p.step("The key alone, and the identity alone")
	return errors.Join(
		refused(ctx, p, v, exchangeCall(t, true, false), http.StatusBadRequest),
		refused(ctx, p, v, exchangeCall(t, false, true), http.StatusUnauthorized),
	)
}

// refused does a call that must be refused, and shows with which words.
func refused(ctx context.Context, p *page, v vars, c call, status int) error {
	p.command(c.line())
	a, err := c.do(ctx, v, nil)
	if err != nil {
		return err
	}
	if a.status != status {
		return fmt.Errorf("%s: got %d, want %d: %s", c.url, a.status, status, a.body)
	}
	p.bad("%d %s", a.status, reason(a.body))
	return nil
}

// reason is the sentence of an error, in the OAuth or the OpenAI dialect.
func reason(body []byte) string {
	var oauth struct {
		Error  string `json:"error"`
		Detail string `json:"error_description"`
	}
	if json.Unmarshal(body, &oauth) == nil && oauth.Error != "" {
		return oauth.Error + ": " + oauth.Detail
	}
	var openai struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &openai) == nil && openai.Error.Code != "" {
		return openai.Error.Code + ": " + openai.Error.Message
	}
	return string(body)
}

// wantRecords are the decisions that the walk made, in order, by file.
var wantRecords = map[string][]string{
	"issuer-audit.jsonl":   {"login allow", "session allow", "key.create allow", "exchange allow", "exchange deny", "exchange deny"},
	"verifier-audit.jsonl": {"call allow", "call deny"},
}

func auditTrail(ctx context.Context, p *page, t *twin, _ vars) error {
	p.step("What was written down")
	for _, name := range []string{"issuer-audit.jsonl", "verifier-audit.jsonl"} {
		p.command("jq -c 'select(.decision_id) | [.event, .outcome, .identity, .key_id, .model, .reason]' " + t.path(name))
		records, err := awaitRecords(ctx, t.path(name), len(wantRecords[name]))
		if err != nil {
			return err
		}
		var got []string
		for _, r := range records {
			got = append(got, r.Event+" "+r.Outcome)
			fields := strings.Fields(strings.Join([]string{r.Event, r.Outcome, r.Identity, r.Key, r.Model, r.Reason}, " "))
			p.show(strings.Join(fields, "  "))
		}
		if !slices.Equal(got, wantRecords[name]) {
			return fmt.Errorf("%s holds %v, want %v", name, got, wantRecords[name])
		}
	}
	return nil
}

// awaitRecords reads an audit log once it holds n records: a call's is written
// when its answer has ended, which the client may see a moment earlier.
func awaitRecords(ctx context.Context, path string, n int) ([]audit.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		records, err := audit.Read(path)
		if err != nil || len(records) >= n {
			return records, err
		}
		select {
		case <-ctx.Done():
			return records, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}
