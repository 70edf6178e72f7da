package route

import (
	"net/http"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// cohere is version 2 of Cohere's API.
var cohere = Family{
	Name: "cohere", Title: "Cohere",
	About: "A model's name is taken as it stands. There are no routes that rule. " +
		"Closed stay version 1, datasets, jobs, connectors and fine-tuning, whose ids belong to all callers' one account, and the list of models.",
	Routes: []Route{
		{
			Method: http.MethodPost, Path: "/v2/chat", Action: "chat", Carrier: InBody, Members: cohereChat, Stream: OnRequest,
			Usage: Usage{"usage", "delta.usage"},
		},
		{Method: http.MethodPost, Path: "/v2/embed", Action: "embeddings", Carrier: InBody, Members: embeddings, Usage: Usage{"meta.billed_units", ""}},
		{Method: http.MethodPost, Path: "/v2/rerank", Action: "rerank", Carrier: InBody, Members: embeddings, Usage: Usage{"meta.billed_units", ""}},
	},
	Refusal: func(_ int, code, message, decision string) []byte {
		b := strictjson.AppendText([]byte(`{"message":`), message)
		b = strictjson.AppendText(append(b, `,"code":`...), code)
		b = strictjson.AppendText(append(b, `,"id":`...), decision)
		b = strictjson.AppendText(append(b, `,"decision_id":`...), decision)
		return append(b, '}')
	},
	Event: cohereEvent,
}

var cohereChat = newMembers([]named{
	{"model", model},
	{"stream", flag.as(streaming)},
	{"max_tokens", count.as(maxTokens)},
	{"temperature", float.as(temperature)},
	{"tools", toolList.as(tools)},
}, otherModels)

// cohereEvent is the last event of a stream, which says what went wrong: there is
// no other for it.
func cohereEvent(body []byte) []byte {
	message := []byte("null")
	members, _ := strictjson.Object(body, strictjson.Limits{})
	for _, m := range members {
		if m.Name == "message" {
			message = m.Raw
		}
	}
	b := append([]byte("event: message-end\n"+`data: {"type":"message-end","delta":{"finish_reason":"ERROR","error":`), message...)
	return append(b, "}}\n\n"...)
}
