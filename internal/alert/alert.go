// Package alert tells people of what needs them: a key that expires, a key in
// the wrong hands, a token that came twice.
//
// It keeps each event in the store together with what caused it, and takes it to
// every [Sink] at least once, across restarts and however many issuers share the
// store. It knows nothing of keys and exchanges: whoever finds something worth
// telling says so in an [Event], which has no field that a secret could stand in.
//
// Start with [Outbox.Put]; outbox.go keeps events on their way, webhook.go and
// log.go are the ways.
package alert

import (
	"context"
	"time"
)

// A Kind says what happened. Receivers tell events apart by it, so that a kind
// never changes its name.
type Kind string

// The kinds.
const (
	KeyExpiring        Kind = "key.expiring"         // A key's expiry is near.
	KeyExpired         Kind = "key.expired"          // It has passed.
	KeyRotationDue     Kind = "key.rotation_due"     // A key wants a new secret soon.
	KeyRotationOverdue Kind = "key.rotation_overdue" // It should have had one.
	KeyQuarantined     Kind = "key.quarantined"      // A key was taken out of use, until an admin looks at it.
	KeySpending        Kind = "key.spending"         // A key spends far more than it used to.
	KeyForged          Kind = "key.forged"           // A key stands in the database as the issuer did not write it.
	Replay             Kind = "replay"               // What is good once came twice.
	SigningKeyTainted  Kind = "signing_key.tainted"  // A signing key was dropped, and all that it signed.
	TokensRevoked      Kind = "tokens.revoked"       // Tokens of more than one key were revoked.
)

// A Severity says how soon somebody should look.
type Severity string

// The severities.
const (
	Info     Severity = "info"     // In the next weeks.
	Warning  Severity = "warning"  // In the next days.
	Critical Severity = "critical" // Now.
)

// An Event is one thing to be told. Its texts are ids, names and sentences of
// ours; what an event is about stands in the audit under the decision's id.
type Event struct {
	ID       string    `json:"id"` // The same however often it is sent: receivers drop what they have seen.
	Time     time.Time `json:"time"`
	Kind     Kind      `json:"kind"`
	Severity Severity  `json:"severity"`
	Text     string    `json:"text"`             // One or two sentences for people.
	Reason   string    `json:"reason,omitempty"` // Why: a code from a closed list, such as "leaked".

	Key   string    `json:"key_id,omitempty"`
	Owner string    `json:"owner,omitempty"` // The identity to be told: who answers for the key, or whom it is about.
	Team  string    `json:"team,omitempty"`
	By    string    `json:"by,omitempty"`    // Who did it: an identity, or a part of the issuer.
	Due   time.Time `json:"due_at,omitzero"` // Of a date that is near or has passed.

	Decision string `json:"decision_id,omitempty"` // In the audit.
}

// MaxText bounds each of an event's texts, in bytes. What is longer is cut.
const MaxText = 500

func (e *Event) clip() {
	for _, text := range []*string{&e.Text, &e.Reason, &e.Key, &e.Owner, &e.Team, &e.By, &e.Decision} {
		if len(*text) > MaxText {
			*text = (*text)[:MaxText]
		}
	}
}

// A Sink is one way to people. It is used by one goroutine of an issuer at a
// time.
type Sink interface {
	// Name tells the sink from the others, in letters, digits and hyphens. Events
	// wait under it, so what is on its way is lost when it changes.
	Name() string
	// Send returns nil when the other side has taken the event. Any error makes it
	// be sent again later, the same event with the same id. Errors hold no secret.
	Send(ctx context.Context, e Event, now time.Time) error
}
