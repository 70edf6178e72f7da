// Package usage says what calls cost: requests and model tokens, added up by the
// hour, key, identity and model.
//
// It refuses to know how the cost of a call is found, and where the sums are
// kept. Start with [Call] and [Row].
package usage

import "time"

// Sources of a call's tokens, from the surest to the last resort.
const (
	Reported  = "reported"  // By the model server.
	Counted   = "counted"   // By the verifier, of what passed.
	Estimated = "estimated" // Of what was asked for.
)

// A Call is what one call cost.
type Call struct {
	Time     time.Time
	Key      string // Its id.
	Identity string
	Team     string
	Grant    string
	Model    string // Empty: the call was to none.

	Input, Output int64 // Model tokens.
	Cached        int64 // Of Input.
	Source        string
}

// A Row is what the calls of one key, identity and model cost within one hour.
type Row struct {
	Hour     time.Time `json:"hour"` // Its start, in UTC.
	Key      string    `json:"key_id"`
	Identity string    `json:"identity"`
	Model    string    `json:"model"`
	Team     string    `json:"team"`  // As of its last call.
	Grant    string    `json:"grant"` // Likewise.

	Requests   int64 `json:"requests"`
	Input      int64 `json:"input_tokens"`
	Output     int64 `json:"output_tokens"`
	Cached     int64 `json:"cached_tokens"`
	Unreported int64 `json:"unreported"` // Requests whose tokens were counted or estimated.
}

// A Batch is what a verifier tells the issuer: rows of what was spent since the
// batch before.
type Batch struct {
	Holder string `json:"holder"` // The verifier, a new name each time it starts with an empty spool.
	Seq    int64  `json:"seq"`    // 1, 2, 3 …: a batch that comes again counts once.
	Lost   int64  `json:"lost"`   // Requests that found no room in its spool, in all.
	Rows   []Row  `json:"rows"`
}
