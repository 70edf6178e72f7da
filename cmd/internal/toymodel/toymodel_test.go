package toymodel_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/hourpass/hourpass/cmd/internal/toymodel"
)

const (
	model      = "faq-bot"
	slashed    = "team/faq-bot:v1"
	credential = "upstream-credential"
)

// start serves two models and returns the official SDK pointed at them.
func start(t *testing.T) (openai.Client, string) {
	t.Helper()
	srv := httptest.NewServer(toymodel.New(toymodel.Config{Models: []string{model, slashed}, Credential: credential}))
	t.Cleanup(srv.Close)
	return sdk(srv.URL, credential), srv.URL
}

func sdk(url, key string) openai.Client {
	return openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
}

func ask(question string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{
		openai.SystemMessage("Be brief."),
		openai.UserMessage(question),
	}}
}

const (
	question     = "How many holidays do I have?" // Six words, and two of the system's.
	wantPrompt   = 8
	wantAnswered = "30 days of holiday"
)

func TestModels(t *testing.T) {
	client, url := start(t)
	list, err := client.Models.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range list.Data {
		ids = append(ids, m.ID)
	}
	if diff := cmp.Diff([]string{model, slashed}, ids); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	for _, id := range ids {
		if m, err := client.Models.Get(t.Context(), id); err != nil || m.ID != id {
			t.Errorf("Get(%q) = %+v, %v", id, m, err)
		}
	}
	if status, body := call(t, http.MethodGet, url+"/v1/models/"+slashed, ""); status != http.StatusOK { // The SDK writes %2F.
		t.Errorf("GET with a bare slash: %d %s", status, body)
	}
	_, err = client.Models.Get(t.Context(), "gpt-4")
	wantRefusal(t, err, http.StatusNotFound, "model_not_found")
}

func TestChat(t *testing.T) {
	client, _ := start(t)
	got, err := client.Chat.Completions.New(t.Context(), ask(question))
	if err != nil {
		t.Fatal(err)
	}
	said := got.Choices[0].Message.Content
	if !strings.Contains(said, wantAnswered) || got.Choices[0].FinishReason != "stop" || got.Model != model {
		t.Errorf("answer = %s", got.RawJSON())
	}
	if u := got.Usage; u.PromptTokens != wantPrompt || u.CompletionTokens != words(said) || u.TotalTokens != wantPrompt+words(said) {
		t.Errorf("usage = %+v for %q", u, said)
	}
	again, err := client.Chat.Completions.New(t.Context(), ask(question))
	if err != nil || again.RawJSON() != got.RawJSON() {
		t.Errorf("the same question again: %s, %v, want the same bytes", again.RawJSON(), err)
	}
}

func TestChatStream(t *testing.T) {
	client, _ := start(t)
	whole, err := client.Chat.Completions.New(t.Context(), ask(question))
	if err != nil {
		t.Fatal(err)
	}
	for _, withUsage := range []bool{true, false} {
		t.Run(fmt.Sprintf("usage %t", withUsage), func(t *testing.T) {
			params := ask(question)
			if withUsage {
				params.StreamOptions.IncludeUsage = openai.Bool(true)
			}
			stream := client.Chat.Completions.NewStreaming(t.Context(), params)
			sum, chunks := openai.ChatCompletionAccumulator{}, 0
			for stream.Next() {
				chunk := stream.Current()
				if !sum.AddChunk(chunk) {
					t.Fatalf("the SDK can't add %s", chunk.RawJSON())
				}
				if has := chunk.JSON.Usage.Raw() != ""; has != withUsage {
					t.Errorf("chunk has a usage member: %t, want %t: %s", has, withUsage, chunk.RawJSON())
				}
				chunks++
			}
			if err := stream.Err(); err != nil {
				t.Fatal(err)
			}
			if got, want := sum.Choices[0].Message.Content, whole.Choices[0].Message.Content; got != want || sum.Choices[0].FinishReason != "stop" {
				t.Errorf("streamed %q, want %q", got, want)
			}
			if withUsage && (sum.Usage.TotalTokens != whole.Usage.TotalTokens || sum.Usage.CompletionTokens != whole.Usage.CompletionTokens) {
				t.Errorf("usage = %+v, want %+v", sum.Usage, whole.Usage)
			}
			if int64(chunks) < whole.Usage.CompletionTokens {
				t.Errorf("%d chunks for %d tokens, want one a token", chunks, whole.Usage.CompletionTokens)
			}
		})
	}
}

func TestChatLimit(t *testing.T) {
	client, _ := start(t)
	for name, set := range map[string]func(*openai.ChatCompletionNewParams){
		"max_tokens":            func(p *openai.ChatCompletionNewParams) { p.MaxTokens = openai.Int(3) },
		"max_completion_tokens": func(p *openai.ChatCompletionNewParams) { p.MaxCompletionTokens = openai.Int(3) },
	} {
		t.Run(name, func(t *testing.T) {
			params := ask("Count to 20")
			set(&params)
			got, err := client.Chat.Completions.New(t.Context(), params)
			if err != nil {
				t.Fatal(err)
			}
			if c := got.Choices[0]; c.Message.Content != "1 2 3" || c.FinishReason != "length" || got.Usage.CompletionTokens != 3 {
				t.Errorf("answer = %s", got.RawJSON())
			}
		})
	}
	params := ask(question)
	params.MaxTokens = openai.Int(0)
	_, err := client.Chat.Completions.New(t.Context(), params)
	wantRefusal(t, err, http.StatusBadRequest, "integer_below_min_value")
}

// TestChatParts reads the text parts of a message, and only these.
func TestChatParts(t *testing.T) {
	client, _ := start(t)
	got, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{
		openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{
			openai.TextContentPart("count to"), openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: "data:,"}), openai.TextContentPart("2"),
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Choices[0].Message.Content != "1 2 done." || got.Usage.PromptTokens != 3 {
		t.Errorf("answer = %s", got.RawJSON())
	}
}

func TestCompletions(t *testing.T) {
	client, _ := start(t)
	params := openai.CompletionNewParams{Model: model, Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("count to 3")}}
	whole, err := client.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Choices[0].Text != "1 2 3 done." || whole.Usage.PromptTokens != 3 || whole.Usage.CompletionTokens != 4 {
		t.Errorf("answer = %s", whole.RawJSON())
	}

	params.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := client.Completions.NewStreaming(t.Context(), params)
	var said, finish string
	var total int64
	for stream.Next() {
		chunk := stream.Current()
		for _, c := range chunk.Choices {
			said += c.Text
			finish = string(c.FinishReason)
		}
		total += chunk.Usage.TotalTokens // Stands on the last chunk alone.
	}
	if err := stream.Err(); err != nil || said != whole.Choices[0].Text || finish != "stop" || total != whole.Usage.TotalTokens {
		t.Errorf("streamed %q, %s, %d tokens, %v, want what came whole", said, finish, total, err)
	}
}

func TestResponses(t *testing.T) {
	client, _ := start(t)
	params := responses.ResponseNewParams{
		Model: model, Instructions: openai.String("Be brief."),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(question)},
	}
	whole, err := client.Responses.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	said := whole.OutputText()
	if !strings.Contains(said, wantAnswered) || whole.Status != "completed" {
		t.Errorf("answer = %s", whole.RawJSON())
	}
	if u := whole.Usage; u.InputTokens != wantPrompt || u.OutputTokens != words(said) || u.TotalTokens != wantPrompt+words(said) {
		t.Errorf("usage = %+v for %q", u, said)
	}

	stream := client.Responses.NewStreaming(t.Context(), params)
	var kinds []string
	var streamed string
	var last responses.Response
	for n := int64(0); stream.Next(); n++ {
		e := stream.Current()
		if e.SequenceNumber != n {
			t.Errorf("%s has number %d, want %d", e.Type, e.SequenceNumber, n)
		}
		if len(kinds) == 0 || kinds[len(kinds)-1] != e.Type {
			kinds = append(kinds, e.Type)
		}
		switch e := e.AsAny().(type) {
		case responses.ResponseTextDeltaEvent:
			streamed += e.Delta
		case responses.ResponseCompletedEvent:
			last = e.Response
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
		"response.output_text.delta", "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if streamed != said || last.OutputText() != said || last.Usage.TotalTokens != whole.Usage.TotalTokens {
		t.Errorf("streamed %q, at the end %s, want %q", streamed, last.RawJSON(), said)
	}
}

func TestResponsesLimit(t *testing.T) {
	client, _ := start(t)
	params := responses.ResponseNewParams{
		Model: model, MaxOutputTokens: openai.Int(2),
		Input: responses.ResponseNewParamsInputUnion{OfInputItemList: responses.ResponseInputParam{
			responses.ResponseInputItemParamOfMessage("count to 9", responses.EasyInputMessageRoleUser),
		}},
	}
	got, err := client.Responses.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if got.OutputText() != "1 2" || got.Status != "incomplete" || got.IncompleteDetails.Reason != "max_output_tokens" || got.Usage.TotalTokens != 5 {
		t.Errorf("answer = %s", got.RawJSON())
	}
	stream := client.Responses.NewStreaming(t.Context(), params)
	var last string
	for stream.Next() {
		last = stream.Current().Type
	}
	if last != "response.incomplete" {
		t.Errorf("last event = %s, want response.incomplete", last)
	}
}

// TestFlush reads the first piece of an answer whose last is an hour away.
func TestFlush(t *testing.T) {
	srv := httptest.NewServer(toymodel.New(toymodel.Config{Models: []string{model}, Pace: time.Hour}))
	defer srv.Close()
	client := sdk(srv.URL, "any")
	stream := client.Chat.Completions.NewStreaming(t.Context(), ask("count to 3"))
	for stream.Next() {
		if c := stream.Current().Choices; len(c) > 0 && c[0].Delta.Content == "1" {
			break
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	stream.Close() // And srv.Close returns, for the server noticed.
}
