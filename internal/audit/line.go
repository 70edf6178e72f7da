package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// MaxLine bounds a line, in bytes, with its end.
const MaxLine = 512 << 10

// Events of the log's own lines. No record may pass for one.
const (
	logEvents     = "log."
	eventStart    = "log.start"      // The first line of a file.
	eventSigned   = "log.checkpoint" // A signature over all lines before.
	eventTorn     = "log.torn"       // What a crash cut off stands before this line.
	formatVersion = 1
)

// sum is a SHA-256 over one line and the newline that ends it: what
// "sed -n 7p FILE | sha256sum" says.
type sum [sha256.Size]byte

func (s sum) String() string { return hex.EncodeToString(s[:]) }

// chain is where a log stands: its id, and number and hash of its last whole
// line. The first line has number 1 and says the hash zero.
type chain struct {
	log  string
	seq  uint64
	hash sum
}

// appendStart appends the beginning of the line that comes next: all of it that
// does not depend on what the line says.
func (c *chain) appendStart(b []byte) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, c.seq+1, 10)
	b = append(b, `,"prev":"`...)
	b = hex.AppendEncode(b, c.hash[:])
	return append(b, `",`...)
}

// push makes line, with its newline, the last one.
func (c *chain) push(line []byte) {
	c.seq++
	c.hash = sha256.Sum256(line)
}

// appendHead appends the first line of a file. When the log goes on from another
// file, number and hash go on too.
func (c *chain) appendHead(b []byte, now time.Time, program string) ([]byte, error) {
	b, err := appendTime(c.appendStart(b), now)
	if err != nil {
		return nil, err
	}
	b = append(b, `,"event":"`+eventStart+`","version":`...)
	b = strconv.AppendInt(b, formatVersion, 10)
	b = append(b, `,"log":"`+c.log+`","program":`...)
	b = strictjson.AppendText(b, cut(program, maxShort))
	return append(b, '}', '\n'), nil
}

// torn is what a crash left behind the last whole line: how many bytes, with the
// newline that closed them later, and their hash.
type torn struct {
	bytes int
	hash  sum
}

// appendTorn appends the line that vouches for t. It follows it in the file, and
// the last whole line in the chain.
func (c *chain) appendTorn(b []byte, now time.Time, t torn) ([]byte, error) {
	b, err := appendTime(c.appendStart(b), now)
	if err != nil {
		return nil, err
	}
	b = append(b, `,"event":"`+eventTorn+`","bytes":`...)
	b = strconv.AppendInt(b, int64(t.bytes), 10)
	b = append(b, `,"torn":"`...)
	b = hex.AppendEncode(b, t.hash[:])
	return append(b, '"', '}', '\n'), nil
}

// entry is a line that was read: one strict JSON object that begins as every
// line does.
type entry struct {
	seq     uint64
	prev    sum
	when    string // As it stands there.
	time    time.Time
	event   string
	members []strictjson.Member
}

// A record has some thirty members.
var lineLimits = strictjson.Limits{Depth: 4, Members: 128}

// parse reads a line, without its newline.
func parse(line []byte) (e entry, ok bool) {
	// No white space around it: a changed newline must not go unseen.
	if len(line) < 2 || line[0] != '{' || line[len(line)-1] != '}' {
		return entry{}, false
	}
	members, err := strictjson.Object(line, lineLimits)
	if err != nil || len(members) < 4 || members[2].Name != "time" {
		return entry{}, false
	}
	seq, ok := members[0].Int()
	if !ok || seq < 1 {
		return entry{}, false
	}
	if e.prev, ok = parseSum(members[1].Value); !ok {
		return entry{}, false
	}
	before := chain{seq: uint64(seq) - 1, hash: e.prev}
	if !bytes.HasPrefix(line, before.appendStart(make([]byte, 0, 128))) {
		return entry{}, false
	}
	e.seq, e.members = uint64(seq), members
	e.when, _ = members[2].Text()
	if e.time, err = time.Parse(time.RFC3339Nano, e.when); err != nil {
		return entry{}, false
	}
	// The two kinds of lines differ in more than one byte.
	e.event, ok = e.member("event").Text()
	own := strings.HasPrefix(e.event, logEvents)
	return e, ok && (own && members[3].Name == "event" || !own && members[3].Name == "decision_id")
}

// member returns the named member, or one of no kind.
func (e *entry) member(name string) strictjson.Value {
	for _, m := range e.members {
		if m.Name == name {
			return m.Value
		}
	}
	return strictjson.Value{}
}

func (e *entry) text(name string) string {
	s, _ := e.member(name).Text()
	return s
}

func parseSum(v strictjson.Value) (s sum, ok bool) {
	text, ok := v.Text()
	if !ok {
		return sum{}, false
	}
	return sumOf(text)
}

// sumOf reads a hash as sha256sum writes it.
func sumOf(text string) (s sum, ok bool) {
	if len(text) != hex.EncodedLen(len(s)) {
		return sum{}, false
	}
	if _, err := hex.Decode(s[:], []byte(text)); err != nil || s.String() != text {
		return sum{}, false
	}
	return s, true
}

// isTorn tells whether b, without a newline, is the beginning of the line that
// comes next and no whole line: what a writer leaves that dies within a write.
func (c *chain) isTorn(b []byte) bool {
	start := c.appendStart(make([]byte, 0, 128))
	if len(b) <= len(start) {
		return len(b) > 0 && bytes.HasPrefix(start, b)
	}
	if !bytes.HasPrefix(b, start) {
		return false
	}
	// A line ends where its first brace closes. Behind that there is nothing that
	// could have been cut off.
	depth, inText, escaped := 0, false, false
	for _, char := range b {
		switch {
		case char < ' ':
			return false
		case escaped:
			escaped = false
		case inText:
			escaped, inText = char == '\\', char != '"'
		case char == '"':
			inText = true
		case char == '{' || char == '[':
			depth++
		case char == '}' || char == ']':
			if depth--; depth == 0 {
				return false
			}
		}
	}
	return true
}
