package toymodel

import (
	"encoding/json"
	"strconv"
	"strings"
)

// text is the words of a prompt: a string, content parts of which only the texts
// count, token ids, or a list of any of these. Null is no words.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	*t = text(strings.Join(appendWords(nil, v), " "))
	return nil
}

// appendWords appends the words of a decoded JSON value.
func appendWords(to []string, v any) []string {
	switch v := v.(type) {
	case string:
		return append(to, strings.Fields(v)...)
	case float64:
		return append(to, strconv.FormatFloat(v, 'f', -1, 64))
	case []any:
		for _, one := range v {
			to = appendWords(to, one)
		}
	case map[string]any:
		return appendWords(to, v["text"])
	}
	return to
}

// count is how many tokens the text is. Our token is the word.
func (t text) count() int { return len(strings.Fields(string(t))) }

// conversation is the messages of a chat. A bare string is one message of the
// user's.
type conversation []message

type message struct {
	Role    string `json:"role"`
	Content text   `json:"content"`
}

func (c *conversation) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*c = conversation{{Role: "user", Content: text(one)}}
		return nil
	}
	return json.Unmarshal(raw, (*[]message)(c))
}

// question is what is to be answered: what the user said last.
func (c conversation) question() (q text) {
	for _, m := range c {
		if m.Role == "user" {
			q = m.Content
		}
	}
	return q
}

// count is how many tokens all the messages are.
func (c conversation) count() (n int) {
	for _, m := range c {
		n += m.Content.count()
	}
	return n
}
