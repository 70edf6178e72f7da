package verifier

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// bodyError is why a body was refused: a sentence for the client, which holds
// nothing of the body but names from our own table.
type bodyError struct{ problem string }

func (e *bodyError) Error() string { return e.problem }

func badBody(format string, args ...any) error { return &bodyError{fmt.Sprintf(format, args...)} }

// readBody reads the body as a whole, judges it, and makes the one that the
// upstream gets.
func (v *Verifier) readBody(c *call, w http.ResponseWriter, r *http.Request) error {
	if c.route.carrier != carriesBody {
		if r.ContentLength != 0 {
			return badBody("this route takes no body")
		}
		return nil
	}
	if err := checkMedia(r.Header); err != nil {
		return err
	}
	if r.ContentLength > v.MaxBody {
		return errTooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, v.MaxBody))
	if err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return errTooLarge
		}
		return badBody("the body was cut off")
	}
	return c.canonicalise(body)
}

// checkMedia wants plain JSON: a server that ignores the type, or knows another,
// must not read something else out of the same bytes.
func checkMedia(h http.Header) error {
	types := h.Values("Content-Type")
	if len(types) != 1 {
		return errMedia
	}
	media, params, err := mime.ParseMediaType(types[0])
	charset, hasCharset := params["charset"]
	if err != nil || media != "application/json" || len(params) > 1 || len(params) == 1 && !(hasCharset && strings.EqualFold(charset, "utf-8")) {
		return errMedia
	}
	if encoding := h.Values("Content-Encoding"); len(encoding) > 1 || len(encoding) == 1 && encoding[0] != "identity" {
		return errEncoding
	}
	return nil
}

// canonicalise judges a body by the route's table and writes it anew: each
// guarded member in its one spelling, everything else byte for byte. What the
// upstream reads is then what was judged, whichever parser it has.
func (c *call) canonicalise(body []byte) error {
	members, err := strictjson.Object(body, strictjson.Limits{})
	if err != nil {
		return badBody("the body is not one plain JSON object: %v", err)
	}
	canonical := make([]byte, 0, len(body)+2)
	canonical = append(canonical, '{')
	for _, m := range members {
		p, guarded := c.route.params[fold(m.Name)]
		switch {
		case guarded && p.name != m.Name:
			return badBody("the body spells %q in another way", p.name)
		case guarded && p.good == nil:
			return badBody("%q is not allowed: %s", p.name, p.whyNot)
		case guarded && !p.good(m.Value):
			return badBody("%q has a value that is not allowed here", p.name)
		}
		canonical = append(strictjson.AppendText(canonical, m.Name), ':')
		if p.isModel {
			model, _ := m.Text() // The table wants a text.
			if !token.ValidModel(model) {
				return badBody(`"model" is not a model's name`)
			}
			c.model = model
			canonical = strictjson.AppendText(canonical, model)
		} else {
			canonical = append(canonical, m.Raw...)
		}
		if p.name == "stream" {
			c.stream, _ = m.Bool()
		}
		canonical = append(canonical, ',')
	}
	if c.model == "" {
		return badBody(`"model" is missing`)
	}
	canonical[len(canonical)-1] = '}' // In place of the last comma.
	c.body = canonical
	return nil
}

// fold brings all spellings of a name together that some reader may take for the
// same: without regard to case (in Unicode's sense, so that "ſtream" is
// "stream"), white space, and characters that can't be seen.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, name)
}
