package meter_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/verifier/internal/meter"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

func find(t testing.TB, method, path string) *route.Route {
	t.Helper()
	m, _, ok := route.Find(method, path)
	if !ok {
		t.Fatalf("there is no route %s %s", method, path)
	}
	return m.Route
}

// answer is one to a call of a route, and what it cost.
type answer struct {
	name   string
	path   string // Of the route; the method is POST.
	form   meter.Form
	text   string // Or the name of a file in testdata.
	want   meter.Usage
	said   string // "io": both are reported, "i", "o", "".
	counts int64  // What is counted of the text: at least.
}

var answers = []answer{
	{"llama.cpp, chat", "/v1/chat/completions", meter.Whole, "ls-chat.txt", meter.Usage{Input: 23, Output: 8}, "io", 5},
	{"llama.cpp, chat, streaming", "/v1/chat/completions", meter.Events, "ls-chat-stream.txt", meter.Usage{Input: 23, Output: 8}, "io", 8},
	{"llama.cpp, several prompts", "/v1/completions", meter.Whole, "ls-completions-multi.txt", meter.Usage{Input: 9, Output: 8}, "io", 5},
	{"llama.cpp, several prompts, streaming", "/v1/completions", meter.Events, "ls-completions-stream-multi.txt", meter.Usage{Input: 9, Output: 6}, "io", 6},
	{"llama.cpp, its own", "/completion", meter.Whole, "ls-native-completion.txt", meter.Usage{Input: 4, Output: 8}, "io", 5},
	{"llama.cpp, its own, streaming", "/completion", meter.Events, "ls-native-completion-stream.txt", meter.Usage{Input: 4, Output: 4}, "io", 3},
	{"llama.cpp, embeddings", "/v1/embeddings", meter.Whole, "ls-embeddings.txt", meter.Usage{Input: 5}, "i", 0},
	{"Ollama, chat", "/v1/chat/completions", meter.Whole, "ol-v1-chat.txt", meter.Usage{Input: 42, Output: 8}, "io", 5},
	{"Ollama, chat, streaming", "/v1/chat/completions", meter.Events, "ol-v1-chat-stream-usage.txt", meter.Usage{Input: 42, Output: 8}, "io", 8},
	{"Ollama, chat, streaming, not asked", "/v1/chat/completions", meter.Events, "ol-v1-chat-stream.txt", meter.Usage{}, "", 8},
	{"Ollama, that died", "/v1/chat/completions", meter.Events, "ol-v1-midstream-crash.txt", meter.Usage{}, "", 8},
	{"Ollama, completions with zeros", "/v1/completions", meter.Events, "ol-v1-completions-stream.txt", meter.Usage{Input: 41, Output: 8}, "io", 8},
	{"Ollama, messages", "/v1/messages", meter.Whole, "ol-v1-messages.txt", meter.Usage{Input: 42, Output: 8}, "io", 5},
	{"Ollama, messages, streaming", "/v1/messages", meter.Events, "ol-v1-messages-stream.txt", meter.Usage{Input: 42, Output: 8}, "io", 8},
	{"Ollama, responses", "/v1/responses", meter.Whole, "ol-v1-responses.txt", meter.Usage{Input: 42, Output: 8}, "io", 5},
	{"Ollama, responses, streaming", "/v1/responses", meter.Events, "ol-v1-responses-stream.txt", meter.Usage{Input: 42, Output: 8}, "io", 8},
	{"Ollama, embeddings", "/v1/embeddings", meter.Whole, "ol-v1-embeddings.txt", meter.Usage{Input: 5}, "i", 0},
	{"Ollama, its own chat, streaming", "/api/chat", meter.Lines, "ol-api-chat-stream.txt", meter.Usage{Input: 42, Output: 8}, "io", 8},
	{"Ollama, its own generate, streaming", "/api/generate", meter.Lines, "ol-api-generate-stream.txt", meter.Usage{Input: 42, Output: 8}, "io", 8},
	{"Ollama, its own, that died", "/api/chat", meter.Lines, "ol-api-midstream-crash.txt", meter.Usage{}, "", 8},
	{"Ollama, what is left out is 0", "/api/chat", meter.Whole, `{"message":{"content":""},"done":true}`, meter.Usage{}, "io", 0},

	{
		"OpenAI, with details", "/v1/chat/completions", meter.Whole,
		`{"choices":[{"index":0,"message":{"content":"hi"}}],"usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,"prompt_tokens_details":{"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":5}}}`,
		meter.Usage{Input: 100, Output: 7, Cached: 64},
		"io", 1,
	},
	{
		"OpenAI, null until the end", "/v1/chat/completions", meter.Events,
		"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":null}\r\n\r\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\r\ndata: \"completion_tokens\":1}}\r\n\r\ndata: [DONE]\r\n\r\n",
		meter.Usage{Input: 3, Output: 1},
		"io", 1,
	},
	{
		"vLLM, as it goes", "/v1/chat/completions", meter.Events,
		"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\ndata: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
		meter.Usage{Input: 6, Output: 3},
		"io", 2,
	},
	{
		"the last event without an end", "/v1/chat/completions", meter.Events,
		"\xEF\xBB\xBF: hello\n\nevent: x\rdata:{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":12}}",
		meter.Usage{Input: 3, Output: 12},
		"io", 0,
	},
	{
		"what is written looks like usage", "/v1/chat/completions", meter.Whole,
		`{"choices":[{"message":{"content":"{\"usage\":{\"completion_tokens\":9}}","usage":{"completion_tokens":8},"tool_calls":[{"function":{"arguments":"\"usage\":{\"prompt_tokens\":1}"}}]}}],"x":{"usage":{"prompt_tokens":5}},"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
		meter.Usage{Input: 1, Output: 2},
		"io", 10,
	},
	{"a failure", "/v1/chat/completions", meter.Events, "data: {\"error\":{\"message\":\"x\"},\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}}\n\n", meter.Usage{}, "", 0},
	{"no failure", "/v1/responses", meter.Whole, `{"error":null,"usage":{"input_tokens":1,"output_tokens":2}}`, meter.Usage{Input: 1, Output: 2}, "io", 0},
	{"numbers that are none", "/v1/chat/completions", meter.Whole, `{"usage":{"prompt_tokens":-1,"completion_tokens":1e300}}`, meter.Usage{}, "", 0},
	{"floats", "/v1/chat/completions", meter.Whole, `{"usage":{"prompt_tokens":12.0,"completion_tokens":1e2}}`, meter.Usage{Input: 12, Output: 100}, "io", 0},
	{"a number at the very end", "/api/embed", meter.Whole, `{"prompt_eval_count":12`, meter.Usage{Input: 12}, "i", 0},
	{
		"Anthropic, caches apart", "/v1/messages", meter.Events,
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":20,\"cache_read_input_tokens\":30,\"output_tokens\":1}}}\n\n" +
			"event: content_block_delta\ndata: {\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\nevent: message_delta\ndata: {\"delta\":{},\"usage\":{\"output_tokens\":15}}\n\n",
		meter.Usage{Input: 60, Output: 15, Cached: 30},
		"io", 1,
	},
	{
		"Gemini", "/v1beta/models/hr:generateContent", meter.Whole,
		`{"candidates":[{"content":{"parts":[{"text":"hello you"}]}}],"usageMetadata":{"promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":5,"thoughtsTokenCount":6,"toolUsePromptTokenCount":2,"totalTokenCount":23}}`,
		meter.Usage{Input: 12, Output: 11, Cached: 4},
		"io", 3,
	},
	{
		"Gemini, streaming as one array", "/v1beta/models/hr:streamGenerateContent", meter.Whole,
		`[{"candidates":[{"content":{"parts":[{"text":"hello"}]}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1}},` + "\r\n" + `{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":3}}]`,
		meter.Usage{Input: 10, Output: 3},
		"io", 2,
	},
	{"Gemini, streaming", "/v1beta/models/hr:streamGenerateContent", meter.Events, "data: {\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":3}}\n\n", meter.Usage{Input: 10, Output: 3}, "io", 0},
	{"Bedrock", "/model/hr/converse", meter.Whole, `{"output":{"message":{"content":[{"text":"hi"}]}},"usage":{"inputTokens":3,"outputTokens":4,"totalTokens":9,"cacheReadInputTokens":1,"cacheWriteInputTokens":1}}`, meter.Usage{Input: 5, Output: 4, Cached: 1}, "io", 1},
	{"Cohere", "/v2/chat", meter.Whole, `{"usage":{"billed_units":{"input_tokens":1,"output_tokens":2},"tokens":{"input_tokens":71,"output_tokens":2}}}`, meter.Usage{Input: 71, Output: 2}, "io", 0},
	{"Cohere, streaming", "/v2/chat", meter.Events, "event: message-end\ndata: {\"delta\":{\"usage\":{\"billed_units\":{\"input_tokens\":1,\"output_tokens\":2}}}}\n\n", meter.Usage{Input: 1, Output: 2}, "io", 0},
	{"TGI", "/generate", meter.Whole, `{"generated_text":"hello","details":{"generated_tokens":20,"prefill":[{"id":0},{"id":1}],"tokens":[{"text":"a"}]}}`, meter.Usage{Input: 2, Output: 20}, "io", 2},
	{"TGI, streaming", "/generate_stream", meter.Events, "data:{\"token\":{\"text\":\"a\"},\"generated_text\":\"a whole text that was told before\",\"details\":{\"generated_tokens\":20,\"input_length\":3}}\n\n", meter.Usage{Input: 3, Output: 20}, "io", 1},
	{"Triton", "/v2/models/hr/generate", meter.Whole, `{"text_output":"hello hello"}`, meter.Usage{}, "", 3},
	{"images", "/v1/images/generations", meter.Whole, `{"data":[{"b64_json":"` + strings.Repeat("A", 5000) + `"}],"usage":{"input_tokens":50,"output_tokens":4000,"input_tokens_details":{"image_tokens":40}}}`, meter.Usage{Input: 50, Output: 4000}, "io", 0},
	{"speech by the second", "/v1/audio/transcriptions", meter.Whole, `{"text":"hello","usage":{"type":"duration","seconds":4}}`, meter.Usage{}, "", 2},
	{"nothing of the kind", "/v1/chat/completions", meter.Events, "hello\n\n\x00\xff{[", meter.Usage{}, "", 0},
	{"too deep", "/v1/chat/completions", meter.Whole, strings.Repeat("[", 100000), meter.Usage{}, "", 0},
}

func (a *answer) bytes(t testing.TB) []byte {
	t.Helper()
	if !strings.HasSuffix(a.text, ".txt") {
		return []byte(a.text)
	}
	b, err := os.ReadFile(filepath.Join("testdata", a.text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read has a meter read pieces, and returns it with what it passed on.
func read(t testing.TB, a *answer, hide bool, pieces ...[]byte) (*meter.Meter, []byte) {
	t.Helper()
	m := meter.New(find(t, "POST", a.path), a.form, meter.Options{Hide: hide})
	var out []byte
	for _, p := range pieces {
		out = append(out, m.Feed(p)...)
	}
	return m, append(out, m.End()...)
}

func (a *answer) check(t testing.TB, m *meter.Meter) {
	t.Helper()
	u, input, output := m.Usage()
	said := ""
	if input {
		said += "i"
	}
	if output {
		said += "o"
	}
	if u != a.want || said != a.said {
		t.Errorf("%s: Usage = %+v %q, want %+v %q", a.name, u, said, a.want, a.said)
	}
	if m.Counted() < a.counts || m.Counted() > 3*a.counts+2 {
		t.Errorf("%s: Counted = %d, want about %d", a.name, m.Counted(), a.counts)
	}
}

func TestUsage(t *testing.T) {
	for _, a := range answers {
		text := a.bytes(t)
		m, out := read(t, &a, false, text)
		a.check(t, m)
		if !bytes.Equal(out, text) {
			t.Errorf("%s: it passes %q on as %q", a.name, text, out)
		}
		var single [][]byte
		for i := range text {
			single = append(single, text[i:i+1])
		}
		m, out = read(t, &a, false, single...)
		a.check(t, m)
		if !bytes.Equal(out, text) {
			t.Errorf("%s: byte by byte it passes on %q", a.name, out)
		}
	}
}

// TestCuts finds the same wherever an answer is cut.
func TestCuts(t *testing.T) {
	for _, a := range answers {
		text := a.bytes(t)
		if len(text) > 6000 {
			continue
		}
		whole, hidden := read(t, &a, true, text)
		for i := range text {
			m, out := read(t, &a, true, text[:i], text[i:])
			a.check(t, m)
			if !bytes.Equal(out, hidden) || m.Counted() != whole.Counted() {
				t.Fatalf("%s: cut at %d it passes on %q and counts %d, want %q and %d", a.name, i, out, m.Counted(), hidden, whole.Counted())
			}
		}
	}
}

// TestHide leaves out the event with the usage, and nothing else.
func TestHide(t *testing.T) {
	const (
		first = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":null}"
		extra = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}"
		azure = "data: {\"choices\":[],\"prompt_filter_results\":[]}" // Its first has no choice.
		named = "event: e\nid: 1\n"
		fail  = "data: {\"choices\":[],\"error\":{},\"usage\":{\"prompt_tokens\":3}}"
		done  = "data: [DONE]"
	)
	long := "data: {\"x\":\"" + strings.Repeat("x", 70<<10) + "\"," + extra[7:]
	for _, end := range []string{"\n", "\r\n", "\r"} {
		for _, tt := range []struct {
			name   string
			events []string
			left   int // The index of the one that is left out, or -1.
		}{
			{"as usual", []string{azure, first, first, extra, done}, 3},
			{"with a name", []string{first, strings.ReplaceAll(named, "\n", end) + extra, done}, 1},
			{"there is none", []string{": c", first, done}, -1},
			{"a failure", []string{first, fail, done}, -1},
			{"a long one", []string{first, long, done}, -1},
			{"it alone", []string{extra}, 0},
		} {
			var text, want []byte
			for i, e := range tt.events {
				e += end + end
				text = append(text, e...)
				if i != tt.left {
					want = append(want, e...)
				}
			}
			a := &answer{path: "/v1/chat/completions", form: meter.Events}
			if m, out := read(t, a, true, text); !bytes.Equal(out, want) {
				t.Errorf("%s, line ends %q: it passes on %.300q, want %.300q", tt.name, end, out, want)
			} else if _, _, ok := m.Usage(); ok != (tt.left >= 0 || tt.name == "a long one") {
				t.Errorf("%s: usage known: %t", tt.name, ok)
			}
			if _, out := read(t, a, false, text); !bytes.Equal(out, text) {
				t.Errorf("%s: it hides without being told to: %.300q", tt.name, out)
			}
			for i := range min(len(text), 400) {
				if _, out := read(t, a, true, text[:i], text[i:]); !bytes.Equal(out, want) {
					t.Fatalf("%s, line ends %q, cut at %d: it passes on %.300q, want %.300q", tt.name, end, i, out, want)
				}
			}
		}
	}
}

// TestNothingIsHeldBack passes on at once what is clear not to be the extra event.
func TestNothingIsHeldBack(t *testing.T) {
	m := meter.New(find(t, "POST", "/v1/chat/completions"), meter.Events, meter.Options{Hide: true})
	for _, piece := range []string{
		"data: {\"choices\":[{\"index\":0,\"del", "ta\":{\"content\":\"a\"}}]}\n\n", ": keep-alive", "\n\n", "data: [DONE]", "\n\n", "data: oops", "\n", "\n",
	} {
		if out := m.Feed([]byte(piece)); string(out) != piece {
			t.Errorf("of %q it passes on %q", piece, out)
		}
	}
}

// TestHold passes on whole events alone, however they come.
func TestHold(t *testing.T) {
	for _, hide := range []bool{false, true} {
		m := meter.New(find(t, "POST", "/v1/chat/completions"), meter.Events, meter.Options{Hide: hide, Hold: true})
		for _, step := range []struct{ piece, passes string }{
			{"data: {\"choices\":[{\"index\":0}]}", ""},
			{"\n", ""},
			{"\ndata: 1", "data: {\"choices\":[{\"index\":0}]}\n\n"},
			{"\r\n\r", "data: 1\r\n\r"},
			{"\n", "\n"},
			{": c", ": c"},
			{"\n\n", "\n\n"},
			{"event: x\ndata: [DONE]", ""},
		} {
			if out := m.Feed([]byte(step.piece)); string(out) != step.passes {
				t.Errorf("after %q it passes on %q, want %q", step.piece, out, step.passes)
			}
		}
		if rest := m.End(); string(rest) != "event: x\ndata: [DONE]" {
			t.Errorf("at the end it passes on %q", rest)
		}
	}
}

// TestAnyCut cuts streams of events in any way.
func TestAnyCut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		line := rapid.SampledFrom([]string{
			"", "", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}", "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}", "data: {\"choices\":[", "data: ],\"usage\":{\"prompt_tokens\":1}}",
			": c", "event: x", "data", "data: [DONE]", "\xEF\xBB\xBF",
		})
		var text []byte
		for range rapid.IntRange(0, 12).Draw(rt, "lines") {
			text = append(text, line.Draw(rt, "line")+rapid.SampledFrom([]string{"\n", "\r\n", "\r"}).Draw(rt, "end")...)
		}
		var pieces [][]byte
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "cut")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		a := &answer{path: "/v1/chat/completions", form: meter.Events}
		one, out := read(t, a, true, text)
		many, parts := read(t, a, true, pieces...)
		u, _, _ := one.Usage()
		v, _, _ := many.Usage()
		if !bytes.Equal(out, parts) || u != v || one.Counted() != many.Counted() {
			rt.Fatalf("%q is passed on as %q, %+v; in pieces as %q, %+v", text, out, u, parts, v)
		}
		if _, all := read(t, a, false, pieces...); !bytes.Equal(all, text) {
			rt.Fatalf("%q is passed on as %q", text, all)
		}
	})
}

func FuzzMeter(f *testing.F) {
	for i := range answers {
		f.Add(answers[i].bytes(f), uint16(7), byte(i))
	}
	f.Fuzz(func(t *testing.T, text []byte, cut uint16, which byte) {
		a := answers[int(which)%len(answers)]
		n := int(cut) % (len(text) + 1)
		m, out := read(t, &a, false, text[:n], text[n:])
		if !bytes.Equal(out, text) {
			t.Errorf("it passes %q on as %q", text, out)
		}
		if u, _, _ := m.Usage(); u.Input < 0 || u.Output < 0 || u.Cached < 0 || m.Counted() < 0 || m.Counted() > int64(len(text)) {
			t.Errorf("Usage = %+v, Counted = %d", u, m.Counted())
		}
		whole, hidden := read(t, &a, true, text)
		again, parts := read(t, &a, true, text[:n], text[n:])
		if !bytes.Equal(hidden, parts) || whole.Counted() != again.Counted() || len(hidden) > len(text) {
			t.Errorf("%q is passed on as %q, cut at %d as %q", text, hidden, n, parts)
		}
	})
}

func BenchmarkFeed(b *testing.B) {
	chunk := []byte(`data: {"id":"chatcmpl-581","object":"chat.completion.chunk","created":1795422317,"model":"tiny-a","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":" word"},"finish_reason":null}]}` + "\n\n")
	for name, hide := range map[string]bool{"event": false, "event, hiding": true} {
		b.Run(name, func(b *testing.B) {
			m := meter.New(find(b, "POST", "/v1/chat/completions"), meter.Events, meter.Options{Hide: hide})
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				m.Feed(chunk)
			}
		})
	}
	whole := []byte(`{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"` + strings.Repeat("some words ", 70) + `"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}`)
	b.Run("1 KiB", func(b *testing.B) {
		r := find(b, "POST", "/v1/chat/completions")
		b.SetBytes(int64(len(whole)))
		b.ReportAllocs()
		for b.Loop() {
			m := meter.New(r, meter.Whole, meter.Options{})
			m.Feed(whole)
			m.End()
		}
	})
	numbers := []byte(`{"data":[{"embedding":[` + strings.Repeat("-0.0123456789,", 10000) + `1]}],"usage":{"prompt_tokens":3}}`)
	b.Run("embeddings", func(b *testing.B) {
		r := find(b, "POST", "/v1/embeddings")
		b.SetBytes(int64(len(numbers)))
		for b.Loop() {
			m := meter.New(r, meter.Whole, meter.Options{})
			m.Feed(numbers)
		}
	})
}
