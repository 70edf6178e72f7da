package body

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Bounds of forms.
const (
	MaxParts  = 128     // Parts.
	MaxFields = 1 << 20 // Bytes of all fields; files are not among them.
)

// A form is what multipart/form-data says (RFC 7578).
type form struct {
	parts []part
	spool spool // The files.
}

// A part is a field or a file.
type part struct {
	disposition
	text  []byte           // Of a field.
	value strictjson.Value // What the text is to a rule; nothing where there is none.
	media string           // Of a file.
	at    int64            // Of a file, in the spool.
	size  int64
}

// parseForm reads a form and holds its fields to the rules.
func parseForm(in io.Reader, boundary string, rules *route.Members, disk *Disk) (Doc, error) {
	d := Doc{form: &form{spool: spool{disk: disk}}, rules: rules}
	err := d.readForm(newParser(in, boundary))
	if err != nil {
		d.Close()
	}
	return d, err
}

func (d *Doc) readForm(p *parser) error {
	if err := p.first(); err != nil {
		return err
	}
	left := MaxFields
	for more := true; more; {
		if len(d.form.parts) == MaxParts {
			return notForm("it has too many parts")
		}
		one, err := p.part(&d.form.spool, left)
		if err != nil {
			return err
		}
		left -= len(one.text)
		if err := d.form.judge(&one, d.rules); err != nil {
			return err
		}
		if one.name == "model" {
			d.Model, _ = one.value.Text()
		}
		d.form.parts = append(d.form.parts, one)
		if more, err = p.more(); err != nil {
			return err
		}
	}
	return nil
}

// judge holds a part to the rules, and to what others have said before it.
func (f *form) judge(p *part, rules *route.Members) error {
	rule, known := rules.Rules[p.name]
	// Some servers make lists and objects of names such as model[] and model[x].
	base, _, _ := strings.Cut(p.name, "[")
	switch {
	case known && p.isFile:
		return member(p.name, "must be a field, not a file")
	case known:
		for i := range f.parts {
			if f.parts[i].name == p.name {
				return member(p.name, "stands there twice: some model servers take the first, others the last")
			}
		}
		var ok bool
		if p.value, ok = judged(p.text, rule); !ok {
			return member(p.name, rule.Words)
		}
	case rules.Confusable(base):
		return refusal.ErrMemberName
	case strings.EqualFold(p.name, "_charset_"):
		return notForm("it names a charset") // Of the other fields (RFC 7578, section 4.6).
	}
	return nil
}

// judged returns the value that a field's text is to its rule: fields have no
// types, and servers read each as what they wait for. What only some would read,
// such as True or 1_000, is none.
func judged(text []byte, rule route.Rule) (strictjson.Value, bool) {
	if !utf8.Valid(text) {
		return strictjson.Value{}, false
	}
	v := strictjson.Value{Kind: strictjson.KindString, Raw: strictjson.AppendText(nil, string(text))}
	if rule.Is(v) {
		return v, true
	}
	if bytes.ContainsAny(text, " \t\r\n,") {
		return strictjson.Value{}, false
	}
	list, err := strictjson.Array(append(append([]byte{'['}, text...), ']'), strictjson.Limits{})
	if err != nil || len(list) != 1 || list[0].Kind != strictjson.KindNumber && list[0].Kind != strictjson.KindBool {
		return strictjson.Value{}, false
	}
	return list[0], rule.Is(list[0])
}

func member(name, words string) error {
	return &refusal.Denial{Is: refusal.ErrMember, Detail: fmt.Sprintf("%q %s", name, words)}
}

// write writes the form anew under a boundary that nobody could know when the
// files were made, so that it stands in none.
func (f *form) write(w *writer, rules *route.Members) (Content, error) {
	boundary := "hourpass-" + rand.Text()
	c := Content{Type: "multipart/form-data; boundary=" + boundary, spool: &f.spool}
	field := func(name string, value []byte) {
		c.text = fmt.Appendf(c.text, "--%s\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n", boundary, name, value)
	}
	for i := range f.parts {
		p := &f.parts[i]
		if p.isFile {
			c.text = fmt.Appendf(c.text, "--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s\"\r\nContent-Type: %s\r\n\r\n",
				boundary, p.name, p.filename, p.media)
			c.files = append(c.files, file{len(c.text), p.at, p.size})
			c.size += p.size
			c.text = append(c.text, "\r\n"...)
			continue
		}
		text := p.text
		if rule := rules.Rules[p.name]; rule.Param != nil {
			raw, err := w.param(nil, &strictjson.Member{Name: p.name, Value: p.value}, &rule)
			if err != nil {
				return Content{}, err
			}
			if raw[0] != '"' { // Text is never changed, and stands without quotes here.
				text = raw
			}
		}
		if w.model != "" && p.name == "model" {
			text = []byte(w.model)
		}
		field(p.name, text)
	}
	if w.model != "" && !slices.ContainsFunc(f.parts, func(p part) bool { return p.name == "model" }) {
		field("model", []byte(w.model)) // Lest the server takes its own default.
	}
	given := func(param string) bool {
		for i := range f.parts {
			if w.settles(rules, f.parts[i].name, param) {
				return true
			}
		}
		return false
	}
	if err := w.missing(rules, given, field); err != nil {
		return Content{}, err
	}
	w.model = "" // It stands outermost.
	for _, name := range rules.Inners {
		// A form has no way to say what an object holds.
		if inner, err := w.object(nil, nil, rules.Rules[name].Inner); err != nil || len(inner) > len("{}") {
			return Content{}, &refusal.Denial{Is: refusal.ErrParam, Detail: "this endpoint's parameters can't be bounded in a form"}
		}
	}
	c.text = fmt.Appendf(c.text, "--%s--\r\n", boundary)
	return c, nil
}
