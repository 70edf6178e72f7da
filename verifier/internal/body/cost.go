package body

import (
	"math"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Output is how many tokens all answers to the document may have together, and
// how many answers there are. said tells whether the document says so; where it
// leaves that open, each has up to open.
func (d *Doc) Output(family *route.Family, open int64) (output, answers int64, said bool) {
	if d.rules == nil {
		return 0, 1, true
	}
	asks, bounded := d.asks(maxTokens, family.Cap)
	if !bounded {
		return 0, 1, true // It makes no text.
	}
	choices, _ := d.asks("n", family.Cap)
	best, _ := d.asks("best_of", family.Cap)
	n := math.Max(math.Max(choices, best), 1) * float64(d.prompts())
	answers = int64(math.Min(n, maxChoices))
	if asks > maxAsked {
		return open * answers, answers, false
	}
	return int64(math.Ceil(asks)) * answers, answers, true
}

// What keeps sums in range. No server takes that many choices, and an answer of
// more tokens has no end.
const (
	maxChoices = 1 << 16
	maxAsked   = 1 << 32
)

// asks is what the document asks for of a parameter: the largest of the members
// that stand for it, or what servers take where there is none. exists tells
// whether the route has any.
func (d *Doc) asks(param, capName string) (n float64, exists bool) {
	absent, settled := 0.0, false
	var look func(members []strictjson.Member, rules *route.Members)
	look = func(members []strictjson.Member, rules *route.Members) {
		for _, name := range rules.Params {
			if p := rules.Rules[name].Param; p.Name == param {
				exists, absent = true, p.Absent
			}
		}
		for i := range members {
			m := &members[i]
			rule := rules.Rules[m.Name]
			if rule.Param == nil || rule.Param.Name != param || m.Kind == strictjson.KindNull {
				continue
			}
			n = math.Max(n, rule.Param.Measure(m.Value))
			settled = settled || !rule.Some || m.Name == capName
		}
		for _, name := range rules.Inners {
			look(inner(members, name), rules.Rules[name].Inner)
		}
	}
	look(d.fields(), d.rules)
	if !settled {
		n = math.Max(n, absent)
	}
	return n, exists
}

// fields are the members, or what the fields of a form are to their rules.
func (d *Doc) fields() []strictjson.Member {
	if d.form == nil {
		return d.members
	}
	var list []strictjson.Member
	for i := range d.form.parts {
		if p := &d.form.parts[i]; !p.isFile && p.value.Raw != nil {
			list = append(list, strictjson.Member{Name: p.name, Value: p.value})
		}
	}
	return list
}

func inner(members []strictjson.Member, name string) []strictjson.Member {
	for i := range members {
		if members[i].Name == name && members[i].Kind == strictjson.KindObject {
			return within(members[i].Value)
		}
	}
	return nil
}

// prompts is how many prompts the document has: completions answer each.
func (d *Doc) prompts() int {
	for i := range d.members {
		if d.members[i].Name != "prompt" || d.members[i].Kind != strictjson.KindArray {
			continue
		}
		list, err := strictjson.Array(d.members[i].Raw, strictjson.Limits{})
		if err == nil && len(list) > 0 && list[0].Kind != strictjson.KindNumber {
			return len(list) // Of numbers it is one prompt, in tokens.
		}
	}
	return 1
}

// How input is estimated, in tokens.
const (
	bytesPerToken = 4    // Of English text, about; other scripts have more bytes.
	longRun       = 1024 // Bytes without a space or a stop: no text, but a picture or a file.
	perRun        = 1500 // Of such a one: what most models take a picture for.
	perFile       = 1500 // Of a file in a form.
)

// Input estimates how many tokens the document is to a model. What it really is
// the answer tells.
func (d *Doc) Input() (tokens int64) {
	if d.form != nil {
		for i := range d.form.parts {
			if p := &d.form.parts[i]; p.isFile {
				tokens += perFile
			} else {
				tokens += int64(len(p.text)+bytesPerToken-1) / bytesPerToken
			}
		}
		return tokens
	}
	for i := range d.members {
		tokens += textTokens(d.members[i].Raw)
	}
	return tokens
}

func textTokens(raw []byte) (tokens int64) {
	if len(raw) <= longRun {
		return int64(len(raw)+bytesPerToken-1) / bytesPerToken
	}
	text, run := 0, 0
	end := func() {
		if run > longRun {
			tokens += perRun
		} else {
			text += run
		}
		run = 0
	}
	for _, c := range raw {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '+' || c == '/' || c == '=' || c == '-' || c == '_' {
			run++
			continue
		}
		end()
		text++
	}
	end()
	return tokens + int64(text+bytesPerToken-1)/bytesPerToken
}
