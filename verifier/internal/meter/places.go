package meter

import (
	"strings"
	"sync"

	"github.com/hourpass/hourpass/verifier/internal/route"
)

// slot is what a number in an answer means.
type slot byte

const (
	slotNone      slot = iota
	slotInput          // Tokens read, cached ones among them.
	slotOutput         // Tokens made.
	slotCached         // Of the input.
	slotRead           // Read from a cache, beside the input.
	slotWritten        // Read into a cache, beside the input.
	slotTools          // Read for tools, beside the input.
	slotThoughts       // Made and not shown, beside the output.
	slotBilledIn       // The input, where nothing better is told.
	slotBilledOut      // Likewise.
	slots

	slotPrefill // An array with an element for each token read.
	slotIndex   // Of a choice.
	slotChoices // The array of choices.
	slotText    // What the model wrote.
	slotDone    // The last of a stream, if it is true. What it leaves out is 0.
	slotFailed  // Says that the call failed, by being there.
)

// numbers are the names of usage within its object, of all APIs: none means two
// things. Those with a dot stand one object deeper.
var numbers = map[string]slot{
	// OpenAI, and who speaks like it.
	"prompt_tokens": slotInput, "completion_tokens": slotOutput, "prompt_tokens_details.cached_tokens": slotCached,
	"input_tokens": slotInput, "output_tokens": slotOutput, "input_tokens_details.cached_tokens": slotCached,
	// Anthropic: the input is without what concerns the cache.
	"cache_read_input_tokens": slotRead, "cache_creation_input_tokens": slotWritten,
	// Gemini: candidates are without thoughts.
	"promptTokenCount": slotInput, "candidatesTokenCount": slotOutput, "cachedContentTokenCount": slotCached,
	"thoughtsTokenCount": slotThoughts, "toolUsePromptTokenCount": slotTools,
	// Ollama.
	"prompt_eval_count": slotInput, "eval_count": slotOutput, "prompt_eval_cached_count": slotCached,
	// llama.cpp.
	"tokens_evaluated": slotInput, "tokens_predicted": slotOutput,
	// TGI.
	"input_length": slotInput, "generated_tokens": slotOutput, "prefill": slotPrefill,
	// Bedrock: as Anthropic.
	"inputTokens": slotInput, "outputTokens": slotOutput, "cacheReadInputTokens": slotRead, "cacheWriteInputTokens": slotWritten,
	// Cohere.
	"tokens.input_tokens": slotInput, "tokens.output_tokens": slotOutput,
	"billed_units.input_tokens": slotBilledIn, "billed_units.output_tokens": slotBilledOut,
}

// written are the places of what the model wrote, in a whole answer and in the
// events of a stream. Arrays on the way do not count.
var written = map[bool][]string{
	false: {
		"choices.message.content", "choices.message.content.text", "choices.message.reasoning_content", "choices.message.refusal", "choices.text",
		"choices.message.tool_calls.function.arguments",
		"content.text", "content.thinking", "output.content.text", "output.arguments", "message.content", "message.content.text", "message.thinking",
		"response", "thinking", "content", "candidates.content.parts.text", "output.message.content.text", "generated_text", "text_output", "text",
	},
	true: {
		"choices.delta.content", "choices.delta.reasoning_content", "choices.delta.reasoning", "choices.delta.refusal", "choices.text",
		"choices.delta.tool_calls.function.arguments",
		"delta", "delta.text", "delta.thinking", "delta.partial_json", "delta.message.content.text", "delta.message.tool_calls.function.arguments",
		"message.content", "message.thinking", "response", "thinking", "content", "candidates.content.parts.text", "token.text", "text_output",
	},
}

// node is a place in an answer.
type node struct {
	slot slot
	next map[string]*node
}

func (n *node) at(path string) *node {
	if path == "." {
		return n
	}
	for name := range strings.SplitSeq(path, ".") {
		if n.next == nil {
			n.next = map[string]*node{}
		}
		if n.next[name] == nil {
			n.next[name] = &node{}
		}
		n = n.next[name]
	}
	return n
}

type rootKey struct {
	route *route.Route
	form  Form
}

var roots sync.Map // From rootKey to *node; there are as many as routes.

// rootOf returns the places of a route's answers.
func rootOf(r *route.Route, form Form) *node {
	key := rootKey{r, form}
	if n, ok := roots.Load(key); ok {
		return n.(*node)
	}
	root := &node{}
	for _, path := range written[form != Whole] {
		root.at(path).slot = slotText
	}
	places := r.Usage.Event
	if form == Whole {
		places = r.Usage.Answer
		if places == "" {
			places = r.Usage.Event // Of a stream that is one array.
		}
	}
	for place := range strings.FieldsSeq(places) {
		for name, slot := range numbers {
			root.at(place).at(name).slot = slot
		}
		if place == "." {
			root.at("done").slot = slotDone
		}
	}
	root.at("choices").slot = slotChoices
	root.at("choices.index").slot = slotIndex
	root.at("error").slot = slotFailed
	n, _ := roots.LoadOrStore(key, root)
	return n.(*node)
}

// report is what was said of usage: each number as it was last told.
type report struct {
	has [slots]bool
	n   [slots]int64
}

func (r *report) any() bool { return r.has != [slots]bool{} }

// with is r, brought up to date by what is there of later.
func (r report) with(later *report) report {
	for s := range slots {
		if later.has[s] {
			r.has[s], r.n[s] = true, later.n[s]
		}
	}
	return r
}

func (r *report) add(more *report) {
	for s := range slots {
		r.has[s] = r.has[s] || more.has[s]
		r.n[s] = min(r.n[s]+more.n[s], maxNumber)
	}
}

func (r *report) usage() (u Usage, input, output bool) {
	in, out := slotInput, slotOutput
	if !r.has[in] {
		in = slotBilledIn
	}
	if !r.has[out] {
		out = slotBilledOut
	}
	u.Input = r.n[in] + r.n[slotRead] + r.n[slotWritten] + r.n[slotTools]
	u.Output = r.n[out] + r.n[slotThoughts]
	u.Cached = min(r.n[slotCached]+r.n[slotRead], u.Input)
	return u, r.has[in], r.has[out] || r.has[slotThoughts]
}

// event is what one event, or a whole answer, has said so far.
type event struct {
	report   report
	text     int64 // Bytes.
	tokens   int64 // As they seem.
	index    int64
	choices  bool // There is an array of them,
	elements int  // with so many.
	failed   bool
}

// extra tells whether the event is there for the usage alone.
func (e *event) extra() bool {
	return e.choices && e.elements == 0 && e.report.any() && !e.failed
}

// How text is counted.
const (
	bytesPerToken = 4  // Of English text, about.
	oneToken      = 16 // Bytes: a delta up to that long is one token.
)

func (e *event) wrote(bytes int64) {
	e.text += bytes
	switch {
	case bytes == 0:
	case bytes <= oneToken:
		e.tokens++
	default:
		e.tokens += (bytes + bytesPerToken - 1) / bytesPerToken
	}
}
