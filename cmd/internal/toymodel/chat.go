package toymodel

import "net/http"

// streaming is how a request asks for a stream, and for its usage at the end.
type streaming struct {
	Stream        bool `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// usage counts prompt and answer, as chat and completions write it.
func usage(prompt, completion int) object {
	return object{"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
}

// chat answers POST /v1/chat/completions with one choice, whatever n says.
func (s *server) chat(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		streaming
		Model               string       `json:"model"`
		Messages            conversation `json:"messages"`
		MaxTokens           *int         `json:"max_tokens"`
		MaxCompletionTokens *int         `json:"max_completion_tokens"`
	}
	name, err := decode(w, r, &req)
	if err != nil {
		return err
	}
	if err := s.serves(req.Model); err != nil {
		return err
	}
	if len(req.Messages) == 0 {
		return refuse(http.StatusBadRequest, "empty_array", "There must be at least one message.")
	}
	limit := req.MaxCompletionTokens
	if limit == nil {
		limit = req.MaxTokens
	}
	a, err := respond(req.Messages.question(), limit)
	if err != nil {
		return err
	}
	spent := usage(req.Messages.count(), len(a.pieces))

	envelope := func(kind string, choices ...object) object {
		if choices == nil {
			choices = []object{} // The SDKs want a list, also where usage stands alone.
		}
		return object{"id": "chatcmpl-" + name, "object": kind, "created": created, "model": req.Model, "choices": choices}
	}
	if !req.Stream {
		whole := envelope("chat.completion", object{
			"index": 0, "finish_reason": a.finish(), "logprobs": nil,
			"message": object{"role": "assistant", "content": a.text(), "refusal": nil},
		})
		whole["usage"] = spent
		reply(w, http.StatusOK, whole)
		return nil
	}
	st := s.stream(w, r)
	chunk := func(delta object, finish any) {
		c := envelope("chat.completion.chunk", object{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish})
		if req.StreamOptions.IncludeUsage {
			c["usage"] = nil
		}
		st.data(c)
	}
	chunk(object{"role": "assistant", "content": ""}, nil)
	st.each(a.pieces, func(piece string) { chunk(object{"content": piece}, nil) })
	chunk(object{}, a.finish())
	if req.StreamOptions.IncludeUsage {
		last := envelope("chat.completion.chunk")
		last["usage"] = spent
		st.data(last)
	}
	st.done()
	return nil
}
