package refusal_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// TestCodesAreDocumented: whoever gets a code finds it in the documentation.
func TestCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refusal.All() {
		if r.Status != refusal.ClientGone && !strings.Contains(string(doc), "`"+r.Code+"`") {
			t.Errorf("docs/api.md does not know %s", r.Code)
		}
	}
}

// TestTable: each reason has one row, a status that goes with its challenge, and
// words that can stand in one.
func TestTable(t *testing.T) {
	reasons := map[string]bool{}
	for _, r := range refusal.All() {
		got, d := refusal.Of(fmt.Errorf("on the way: %w", r.Err))
		if got.Reason != r.Reason || d.Detail != "" {
			t.Errorf("Of(%v) = %s, want %s", r.Err, got.Reason, r.Reason)
		}
		if reasons[r.Reason] {
			t.Errorf("the reason %s stands twice", r.Reason)
		}
		reasons[r.Reason] = true
		challenge := r.Challenge(d, r.Message(d))
		if (r.Status == 401) != strings.HasPrefix(challenge, "Bearer") && r.Code != "insufficient_scope" {
			t.Errorf("%s is %d with the challenge %q", r.Reason, r.Status, challenge)
		}
		if strings.ContainsAny(challenge, "\r\n") || strings.Count(challenge, `"`)%2 != 0 {
			t.Errorf("the challenge %q can't stand in a header", challenge)
		}
	}
}

// TestUnknownReason: what nobody thought of is our failure, and lets nobody in.
func TestUnknownReason(t *testing.T) {
	r, _ := refusal.Of(errors.New("who knows"))
	if r.Status != 500 || r.Code != "internal_error" {
		t.Errorf("%+v", r)
	}
}

func TestDenial(t *testing.T) {
	cause := errors.New("the disk")
	err := fmt.Errorf("on the way: %w", &refusal.Denial{Is: refusal.ErrScope, Detail: "chat:a", Scope: "chat:a", Cause: cause})
	r, d := refusal.Of(err)
	if r.Message(d) != "The token lacks the scope chat:a." || !strings.Contains(err.Error(), "the disk") {
		t.Errorf("%q, %v", r.Message(d), err)
	}
	if c := r.Challenge(d, r.Message(d)); !strings.HasSuffix(c, `, scope="chat:a"`) || strings.Contains(c, "disk") {
		t.Errorf("challenge %s", c)
	}
	expired, d := refusal.Of(token.ErrExpired)
	if c := expired.Challenge(d, "a\"b\\c\nd"); c != `Bearer error="invalid_token", error_description="abcd"` {
		t.Errorf("challenge %s", c)
	}
}
