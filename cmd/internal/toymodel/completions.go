package toymodel

import "net/http"

// completions answers POST /v1/completions with one choice, whatever n says and
// however many prompts there are: several are taken as one.
func (s *server) completions(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		streaming
		Model     string `json:"model"`
		Prompt    text   `json:"prompt"`
		MaxTokens *int   `json:"max_tokens"`
	}
	name, err := decode(w, r, &req)
	if err != nil {
		return err
	}
	if err := s.serves(req.Model); err != nil {
		return err
	}
	a, err := respond(req.Prompt, req.MaxTokens)
	if err != nil {
		return err
	}
	spent := usage(req.Prompt.count(), len(a.pieces))

	envelope := func(choices ...object) object {
		if choices == nil {
			choices = []object{}
		}
		return object{"id": "cmpl-" + name, "object": "text_completion", "created": created, "model": req.Model, "choices": choices}
	}
	choice := func(said string, finish any) object {
		return object{"index": 0, "text": said, "logprobs": nil, "finish_reason": finish}
	}
	if !req.Stream {
		whole := envelope(choice(a.text(), a.finish()))
		whole["usage"] = spent
		reply(w, http.StatusOK, whole)
		return nil
	}
	st := s.stream(w, r)
	chunk := func(said string, finish any) {
		c := envelope(choice(said, finish))
		if req.StreamOptions.IncludeUsage {
			c["usage"] = nil
		}
		st.data(c)
	}
	st.each(a.pieces, func(piece string) { chunk(piece, nil) })
	chunk("", a.finish())
	if req.StreamOptions.IncludeUsage {
		last := envelope()
		last["usage"] = spent
		st.data(last)
	}
	st.done()
	return nil
}
