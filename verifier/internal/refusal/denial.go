package refusal

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// A Denial is a reason with what this one case adds to it.
type Denial struct {
	Is     error
	Detail string // Ends the sentence. Safe to show: our words, or a model's valid name.
	Cause  error  // For the operator.
	Scope  string // The one that is missing.
	Allow  string // The methods that would do.

	RetryAfter time.Duration // When to come again; zero: it is not told.
	Limits     []Limit       // That are in the way.
}

// A Limit is how a limit of the token stands.
type Limit struct {
	Name          string
	Most, Left    int64
	Window, Reset time.Duration // Its length, and when it ends. Zero: it has none.
}

func (d *Denial) Error() string {
	if d.Cause == nil {
		return d.Is.Error()
	}
	return d.Is.Error() + ": " + d.Cause.Error()
}

func (d *Denial) Unwrap() error { return d.Is }

// All are all of them.
func All() []Refusal { return slices.Clone(refusals) }

// Of returns what becomes of err. What is not on the list is our failure: a
// verifier that can't decide must not let through, nor blame the client.
func Of(err error) (Refusal, *Denial) {
	d := &Denial{}
	if !errors.As(err, &d) {
		d = &Denial{Is: err}
	}
	for _, r := range refusals {
		if errors.Is(err, r.Err) {
			return r, d
		}
	}
	return refusals[len(refusals)-1], d
}

// Message is the sentence for the client, with what this case adds.
func (r *Refusal) Message(d *Denial) string {
	switch {
	case d.Detail == "":
		return r.sentence
	case r.Err == ErrBody, r.Err == ErrForm: //nolint:errorlint // The row itself, not a chain.
		return r.sentence + ": " + d.Detail + "."
	}
	return r.sentence + " " + d.Detail + "."
}

// Challenge is the value of WWW-Authenticate, or empty where there is none (RFC 6750, section 3).
func (r *Refusal) Challenge(d *Denial, message string) string {
	switch r.challenge {
	case "":
		return ""
	case noError:
		return "Bearer"
	}
	// A quoted string of ASCII: the sentences have quotes and dashes in places.
	description := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return -1
		}
		return c
	}, message)
	challenge := `Bearer error="` + r.challenge + `", error_description="` + description + `"`
	if d.Scope != "" {
		challenge += `, scope="` + d.Scope + `"`
	}
	return challenge
}
