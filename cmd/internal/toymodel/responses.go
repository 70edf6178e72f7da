package toymodel

import "net/http"

// responsesRequest is what we read of POST /v1/responses.
type responsesRequest struct {
	Model           string       `json:"model"`
	Input           conversation `json:"input"`
	Instructions    *text        `json:"instructions"`
	MaxOutputTokens *int         `json:"max_output_tokens"`
	Stream          bool         `json:"stream"`
}

// responses answers POST /v1/responses. Nothing is stored: a previous_response_id
// is not looked at.
func (s *server) responses(w http.ResponseWriter, r *http.Request) error {
	var req responsesRequest
	name, err := decode(w, r, &req)
	if err != nil {
		return err
	}
	if err := s.serves(req.Model); err != nil {
		return err
	}
	if len(req.Input) == 0 {
		return refuse(http.StatusBadRequest, "missing_input", "There must be an input.")
	}
	a, err := respond(req.Input.question(), req.MaxOutputTokens)
	if err != nil {
		return err
	}
	if !req.Stream {
		reply(w, http.StatusOK, req.finished(name, a))
		return nil
	}
	req.narrate(s.stream(w, r), name, a)
	return nil
}

// narrate sends the typed events of an answer, in the order of OpenAI's.
func (req responsesRequest) narrate(st *stream, name string, a answer) {
	sequence := 0
	event := func(kind string, v object) {
		v["type"], v["sequence_number"] = kind, sequence
		sequence++
		st.event(kind, v)
	}
	item := func(v object) object { // About the answer's one item.
		v["item_id"], v["output_index"], v["content_index"] = "msg_"+name, 0, 0
		return v
	}
	event("response.created", object{"response": req.response(name, "in_progress")})
	event("response.in_progress", object{"response": req.response(name, "in_progress")})
	event("response.output_item.added", object{"output_index": 0, "item": outputMessage(name, "in_progress")})
	event("response.content_part.added", item(object{"part": outputText("")}))
	st.each(a.pieces, func(piece string) {
		event("response.output_text.delta", item(object{"delta": piece, "logprobs": []object{}}))
	})
	event("response.output_text.done", item(object{"text": a.text(), "logprobs": []object{}}))
	event("response.content_part.done", item(object{"part": outputText(a.text())}))
	last := req.finished(name, a)
	event("response.output_item.done", object{"output_index": 0, "item": last["output"].([]object)[0]})
	event("response."+last["status"].(string), object{"response": last})
}

// response is the object without its output.
func (req responsesRequest) response(name, status string) object {
	return object{
		"id": "resp_" + name, "object": "response", "created_at": created, "status": status, "model": req.Model,
		"output": []object{}, "usage": nil, "error": nil, "incomplete_details": nil, "instructions": req.Instructions,
		"max_output_tokens": req.MaxOutputTokens, "metadata": object{}, "parallel_tool_calls": true, "previous_response_id": nil,
		"store": false, "temperature": 1, "text": object{"format": object{"type": "text"}}, "tool_choice": "auto",
		"tools": []object{}, "top_p": 1, "truncation": "disabled",
	}
}

// finished is the object with output and usage, completed or incomplete.
func (req responsesRequest) finished(name string, a answer) object {
	status := "completed"
	if a.cut {
		status = "incomplete"
	}
	v := req.response(name, status)
	if a.cut {
		v["incomplete_details"] = object{"reason": "max_output_tokens"}
	}
	v["output"] = []object{outputMessage(name, status, outputText(a.text()))}
	in, out := req.Input.count(), len(a.pieces)
	if req.Instructions != nil {
		in += req.Instructions.count()
	}
	v["usage"] = object{
		"input_tokens": in, "input_tokens_details": object{"cached_tokens": 0},
		"output_tokens": out, "output_tokens_details": object{"reasoning_tokens": 0},
		"total_tokens": in + out,
	}
	return v
}

func outputMessage(name, status string, content ...object) object {
	if content == nil {
		content = []object{}
	}
	return object{"type": "message", "id": "msg_" + name, "status": status, "role": "assistant", "content": content}
}

func outputText(said string) object {
	return object{"type": "output_text", "text": said, "annotations": []object{}, "logprobs": []object{}}
}
