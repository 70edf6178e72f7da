package route

import (
	"net/http"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// bedrock is the runtime of Amazon Bedrock. An upstream takes one of its API
// keys: a signature (SigV4) would not hold for what the verifier writes.
var bedrock = Family{
	Name: "bedrock", Title: "Amazon Bedrock",
	About: "A model's name is its id as it stands in the path, the `:` of `…-v1:0` written plainly and not as `%3A`, which is refused with every other escape. " +
		"Names of resources (ARN) that have a slash are refused: use the id of an inference profile. The upstream's credential is an API key of Bedrock's; " +
		"signatures of clients are not looked at, and don't pass. What `invoke` takes for parameters is the model's own affair, so a token that bounds any does not open it; " +
		"of `converse`, `additionalModelRequestFields` is refused, as it would be merged into the request after it was checked. " +
		"A binary stream that breaks off is cut: its frames have no room for an error of ours. " +
		"There are no routes that rule. Closed stay asynchronous calls, agents, flows and guardrails.",
	Routes: []Route{
		{
			Method: http.MethodPost, Path: "/model/{model}/converse", Action: "chat", Carrier: InPath, Members: converse,
			Usage: Usage{"usage", ""},
		},
		{
			Method: http.MethodPost, Path: "/model/{model}/converse-stream", Action: "chat", Carrier: InPath, Members: converse, Stream: Always,
			Answers: eventStream, Usage: Usage{"", "usage"},
		},
		{Method: http.MethodPost, Path: "/model/{model}/invoke", Action: "infer", Carrier: InPath, Members: invoke, Opaque: true},
		{
			Method: http.MethodPost, Path: "/model/{model}/invoke-with-response-stream", Action: "infer", Carrier: InPath, Members: invoke, Opaque: true,
			Stream: Always, Answers: eventStream,
		},
		{Method: http.MethodPost, Path: "/model/{model}/count-tokens", Action: "tokenize", Carrier: InPath, Members: invoke},
	},
	Also: []string{"POST /openai/v1/chat/completions"},
	Refusal: func(_ int, code, message, decision string) []byte {
		b := strictjson.AppendText([]byte(`{"message":`), message)
		b = strictjson.AppendText(append(b, `,"code":`...), code) // The SDKs name the error so.
		b = strictjson.AppendText(append(b, `,"decision_id":`...), decision)
		return append(b, '}')
	},
	Event: dataEvent,
}

var eventStream = []string{"application/vnd.amazon.eventstream"}

var bedrockNames = refused("is refused: the path names the model", "modelId model inferenceProfileArn")

var converse = newMembers([]named{
	{"inferenceConfig", group.of(newMembers([]named{
		{"maxTokens", count.as(maxTokens)},
		{"temperature", float.as(temperature)},
	}))},
	{"toolConfig", group.of(newMembers([]named{{"tools", list.as(tools)}}))},
}, bedrockNames, refused(
	"is refused: what it carries would be merged into the request after it was checked", "additionalModelRequestFields",
), refused(
	"is refused: a stored prompt may name another model", "promptVariables",
))

var invoke = newMembers(bedrockNames)
