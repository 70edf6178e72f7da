package audit

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Options say what a log is held against besides itself.
type Options struct {
	// Trust are the thumbprints of the keys that may have signed (RFC 7638,
	// SHA-256, base64url). Then every checkpoint must be signed by one of them,
	// and there must be one. Without it, a log that somebody wrote anew, signed
	// with a key of his own or not at all, can't be told from the true one.
	Trust []string

	// Expect is a line that is known to be in the log, such as the last one of an
	// earlier check. It shows when the end was cut off since.
	Expect Position
}

// Position names a line by its number and its hash. The zero value names none.
type Position struct {
	Line uint64 `json:"line"` // As the line itself says it, not as an editor counts.
	Hash string `json:"hash"` // SHA-256 of the line with its newline, in hex.
}

// ParsePosition reads what [Position.String] writes.
func ParsePosition(s string) (Position, error) {
	var p Position
	number, hash, _ := strings.Cut(s, ":")
	if _, err := fmt.Sscan(number, &p.Line); err != nil || p.Line == 0 || fmt.Sprint(p.Line) != number {
		return Position{}, errors.New("a position is NUMBER:HASH")
	}
	if _, ok := sumOf(hash); !ok {
		return Position{}, errors.New("the hash of a position is SHA-256 in 64 hex digits")
	}
	p.Hash = hash
	return p, nil
}

func (p Position) String() string { return fmt.Sprintf("%d:%s", p.Line, p.Hash) }

// Kinds of problems.
const (
	Changed    = "changed"    // A line is not as it was written.
	Removed    = "removed"    // Lines are missing, at the beginning or within.
	Inserted   = "inserted"   // A line is there that has another one's number.
	Reordered  = "reordered"  // A line stands behind later ones.
	Truncated  = "truncated"  // The expected line is missing at the end.
	Forged     = "forged"     // A checkpoint's signature is bad.
	Untrusted  = "untrusted"  // Nobody who is trusted signed.
	Unfinished = "unfinished" // A crash left a mark that no later line vouches for.
	Apart      = "apart"      // A file is not the continuation of the one before.
	NoLog      = "no_log"     // There is nothing that could be checked.
)

// Problem is what is wrong with a log, and where.
type Problem struct {
	Kind string `json:"kind"`
	File string `json:"file"`
	Row  int    `json:"row"` // As an editor counts the file's lines, from 1. 0: the file as a whole.
	Text string `json:"text"`
}

// Signature is whose signatures a log holds.
type Signature struct {
	Thumbprint  string `json:"thumbprint"`
	Algorithm   string `json:"alg"`
	Checkpoints int    `json:"checkpoints"`
	Trusted     bool   `json:"trusted"` // It is among Options.Trust.
}

// Report is what was found out about a log. The log is good if Problem is nil.
type Report struct {
	Log      string   `json:"log,omitempty"`
	Programs []string `json:"programs,omitempty"`
	Files    int      `json:"files"`

	First   uint64    `json:"first_line"` // Above 1, what came before is in another file.
	Last    Position  `json:"last"`
	Records int       `json:"records"`
	From    time.Time `json:"from,omitzero"` // The earliest and the latest time of a line.
	To      time.Time `json:"to,omitzero"`

	Checkpoints int         `json:"checkpoints"`     // Good ones.
	Bad         int         `json:"bad_checkpoints"` // The others.
	Signatures  []Signature `json:"signatures,omitempty"`
	Pinned      bool        `json:"pinned"`    // They were held against Options.Trust.
	Covered     uint64      `json:"covered"`   // Up to which line a good checkpoint vouches for all. 0: none does.
	Uncovered   int         `json:"uncovered"` // Records behind that line.

	Torn      int   `json:"torn"`       // Places where a crash cut a line off, and the log says so.
	TornBytes int   `json:"torn_bytes"` // What stands there.
	Tail      int   `json:"tail_bytes"` // A last line that is not finished: a crash, or a writer at work.
	Gaps      []Gap `json:"gaps,omitempty"`

	Problem  *Problem `json:"problem,omitempty"` // The first one.
	Problems int      `json:"problems"`
}

// Gap is a range of numbers that no line bears at its place.
type Gap struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Bounds of a report.
const (
	maxGaps   = 100
	maxListed = 100 // Signatures and programs.
)
