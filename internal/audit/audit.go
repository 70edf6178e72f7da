// Package audit keeps the record of decisions: one JSON line per exchange, call
// and change. A record holds ids, names and numbers; there is no field that a
// prompt, secret, key or token belongs in.
//
// Every line says the SHA-256 of the line before it, and every now and then a
// line is signed, so that who changes, removes or moves a line later can be
// found out from the file alone. docs/audit.md says which bytes are hashed and
// signed.
//
// The package knows nothing of what the decisions are about, nor where private
// keys are: it asks a [Signer]. Start with [Open] and [Log.Append]; for the other
// end, with [Verify].
package audit

import (
	"crypto/rand"
	"time"
)

// Outcomes of a decision.
const (
	Allow = "allow"
	Deny  = "deny"
)

// A Record is one decision. Fields that do not apply are left out of its line.
// Texts longer than [MaxText] bytes are cut, and longer lists too: a record that
// is too long must not be one that is missing.
type Record struct {
	Time     time.Time `json:"time"`             // Written in UTC. The year must be 0 to 9999.
	Decision string    `json:"decision_id"`      // Also told to the client, so that it can be asked about.
	Event    string    `json:"event"`            // "login", "session", "exchange", "call", "key.create", … but not "log.…".
	Outcome  string    `json:"outcome"`          // Allow or Deny.
	Reason   string    `json:"reason,omitempty"` // Why not: a code from a closed list.
	Detail   string    `json:"detail,omitempty"` // The same as a sentence.

	Key      string `json:"key_id,omitempty"`
	Identity string `json:"identity,omitempty"` // "provider:subject"
	Actor    string `json:"act,omitempty"`      // Who acts for Identity, of the same form (RFC 8693, section 4.1).
	Team     string `json:"team,omitempty"`
	Grant    string `json:"grant,omitempty"`
	Scope    string `json:"scope,omitempty"`
	Token    string `json:"jti,omitempty"`
	Expires  int64  `json:"exp,omitempty"` // Unix seconds.

	Policies   []string `json:"policies,omitempty"`   // The ids that decided. At most [MaxPolicies].
	Generation uint64   `json:"generation,omitempty"` // Of the policy that they are of.

	Route          string  `json:"route,omitempty"`
	Action         string  `json:"action,omitempty"`
	Model          string  `json:"model,omitempty"`
	Upstream       string  `json:"upstream,omitempty"`
	UpstreamStatus int     `json:"upstream_status,omitempty"`
	Status         int     `json:"status,omitempty"`     // What the client was answered.
	Bytes          int64   `json:"bytes,omitempty"`      // Of the answer's body.
	Millis         float64 `json:"latency_ms,omitempty"` // From request to the end of the answer.
	ClientIP       string  `json:"client_ip,omitempty"`

	// Model tokens that a call cost. Where Usage is empty they are not known to be
	// any: a route without, or a call that was not made.
	Input  int64  `json:"input_tokens,omitempty"`
	Output int64  `json:"output_tokens,omitempty"`
	Cached int64  `json:"cached_tokens,omitempty"` // Of Input.
	Usage  string `json:"usage_source,omitempty"`  // "reported", "counted" or "estimated".

	// Change is what an administrator changed: the name of each member to its
	// old and new value, such as "state": "active → disabled". The value of a
	// secret has no place here. At most [MaxChange] members.
	Change map[string]string `json:"change,omitempty"`
}

// Bounds of a record. The longest fits a line ([MaxLine]) however it must be
// escaped.
const (
	MaxText     = 2 << 10 // Bytes of one text.
	MaxPolicies = 64
	MaxChange   = 32
	maxShort    = 256 // Bytes of a policy id, of a name in a change, of a program.
	maxValue    = 512 // Bytes of a value in a change.
)

// NewID returns a decision id: 130 random bits in 26 characters.
func NewID() string { return rand.Text() }
