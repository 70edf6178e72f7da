package issuer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// usedOnce is the mark of an assertion that must not come twice. It outlives the
// assertion, restarts and replicas included.
type usedOnce struct {
	mark    string // See newMark.
	key     string // The machine key that used it.
	at      time.Time
	request []byte // Digest of what was asked for.
	sealed  []byte // The answer, for an honest retry. Nil: there is none.
	forget  time.Time
	again   error // What it means that it was there already. Matches errUsed.
}

// newMark names an assertion by its issuer and what is its own.
func newMark(issuer string, own ...string) string {
	return string(digest(append([]string{issuer}, own...)...))
}

// use is what a token leaves in the database before it is let out.
type use struct {
	key   policy.Key // Must not have changed since it was read.
	marks []*usedOnce

	lead chan bool // true: commit the next group; false: err says how it went.
	err  error
}

// Why a use is not committed.
var (
	errUsed     = errors.New("an assertion was used before")
	errStaleKey = errors.New("the machine key has changed since it was read")

	errProofUsed = fmt.Errorf("%w: the client's own", errUsed)
)

const (
	maxGroup      = 64               // Uses in one transaction.
	maxRows       = 16               // Rows in one INSERT: SQLite finds a parameter by looking at all before it.
	commitTimeout = 10 * time.Second // Of one transaction.

	// Where others are on their way, a group waits for them: a transaction costs
	// as much CPU as two exchanges, whether it keeps one use or thirty.
	gatherFor      = 2 * time.Millisecond
	gatherSiblings = 4
)

// committer commits uses in groups: while one transaction runs, the uses that
// arrive wait together for the next, so that a disk that takes a millisecond to
// remember does so once for all of them.
type committer struct {
	db   *sql.DB
	keys Keys

	coming atomic.Int64 // Requests that may commit soon.

	mu      sync.Mutex
	busy    bool
	waiting []*use
	inserts [maxRows + 1]*sql.Stmt // By how many marks they insert.
}

// commit returns nil when the use is kept; errUsed where one of its marks was
// there already, errStaleKey where its key has changed.
func (c *committer) commit(key policy.Key, marks ...*usedOnce) error {
	u := &use{key: key, marks: marks, lead: make(chan bool, 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, u)
	first := !c.busy
	c.busy = true
	c.mu.Unlock()
	if first || <-u.lead {
		c.commitGroup(u)
	}
	return u.err
}

// commitGroup commits the uses that wait, u among them, and hands over to
// whoever came in the meantime.
func (c *committer) commitGroup(u *use) {
	if c.coming.Load() >= gatherSiblings {
		time.Sleep(gatherFor)
	}
	c.mu.Lock()
	n := min(len(c.waiting), maxGroup)
	group := slices.Clone(c.waiting[:n])
	c.waiting = append(c.waiting[:0], c.waiting[n:]...)
	c.mu.Unlock()

	err := c.write(group)
	for _, member := range group {
		if err != nil {
			member.err = fmt.Errorf("keeping what was used: %w", err)
		}
		if member != u {
			member.lead <- false
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = len(c.waiting) > 0; c.busy {
		c.waiting[0].lead <- true
	}
}

// write commits the group in one transaction and tells each use how it went. It
// is not bound to any one request: a client that leaves takes nobody along.
func (c *committer) write(group []*use) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := c.writeIn(ctx, tx, group); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (c *committer) writeIn(ctx context.Context, tx *sql.Tx, group []*use) error {
	keys := make([]policy.Key, len(group))
	for i, u := range group {
		keys[i] = u.key
	}
	stale, err := c.keys.Stale(ctx, tx, keys)
	if err != nil {
		return err
	}
	// Of two in the group with the same mark, the first counts.
	owner := map[string]*use{}
	var marks []*usedOnce
	for _, u := range group {
		u.err = nil
		if slices.Contains(stale, u.key.ID) {
			u.err = errStaleKey
			continue
		}
		for _, m := range u.marks {
			if owner[m.mark] != nil {
				u.err = errors.Join(u.err, m.again)
				continue
			}
			owner[m.mark] = u
			marks = append(marks, m)
		}
	}
	// In one order everywhere, so that two issuers never wait for each other.
	slices.SortFunc(marks, func(a, b *usedOnce) int { return strings.Compare(a.mark, b.mark) })
	kept := make(map[string]bool, len(marks))
	for chunk := range slices.Chunk(marks, maxRows) {
		if err := c.insert(ctx, tx, chunk, kept); err != nil {
			return err
		}
	}
	for _, m := range marks {
		if u := owner[m.mark]; !kept[m.mark] {
			u.err = errors.Join(u.err, m.again)
		}
	}
	return nil
}

const markColumns = 6

// inserting returns the statement that inserts n marks, prepared once.
func (c *committer) inserting(ctx context.Context, n int) (*sql.Stmt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inserts[n] != nil {
		return c.inserts[n], nil
	}
	var rows strings.Builder
	for i := range n * markColumns {
		switch {
		case i == 0:
		case i%markColumns == 0:
			rows.WriteString("), (")
		default:
			rows.WriteString(", ")
		}
		rows.WriteString("$" + strconv.Itoa(i+1))
	}
	stmt, err := c.db.PrepareContext(ctx, strings.Replace(`INSERT INTO used_assertions
		(mark, key_id, used_at, request, sealed, forget_at) VALUES (ROWS) ON CONFLICT (mark) DO NOTHING RETURNING mark`, "ROWS", rows.String(), 1))
	if err == nil {
		c.inserts[n] = stmt
	}
	return stmt, err
}

// insert inserts those marks that are not there yet, and notes their names.
func (c *committer) insert(ctx context.Context, tx *sql.Tx, marks []*usedOnce, kept map[string]bool) error {
	stmt, err := c.inserting(ctx, len(marks))
	if err != nil {
		return err
	}
	args := make([]any, 0, markColumns*len(marks))
	for _, m := range marks {
		args = append(args, []byte(m.mark), m.key, m.at.Unix(), orEmpty(m.request), orEmpty(m.sealed), m.forget.Unix())
	}
	found, err := tx.StmtContext(ctx, stmt).QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer func() { _ = found.Close() }()
	for found.Next() {
		var mark []byte
		if err := found.Scan(&mark); err != nil {
			return err
		}
		kept[string(mark)] = true
	}
	return found.Err()
}

// orEmpty is b, or no bytes where it is nil, which SQL takes for NULL.
func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
