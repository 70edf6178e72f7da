package ring_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/hourpass/hourpass/internal/seal"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/jwks/ring"
)

var start = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

var profile = jwks.Profile{Types: []string{"at+jwt"}, Algorithms: []string{"ES256", "EdDSA", "RS256"}, ExactHeader: true}

// The defaults, as documented.
const (
	every = 30 * 24 * time.Hour
	lead  = 15 * time.Minute
	hold  = 65 * time.Minute
	stale = time.Minute
)

// clock stands still until it is told.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: start} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newSealer(t testing.TB) *seal.Sealer {
	t.Helper()
	key := make([]byte, seal.KeySize)
	_, _ = rand.Read(key)
	s, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// memory is a storage that can be cut off and watched.
type memory struct {
	mu      sync.Mutex
	data    []byte
	version int64
	before  func() // Called before the next Save.
}

func (m *memory) Load(context.Context) (data []byte, version int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.version == 0 {
		return nil, 0, os.ErrNotExist
	}
	return m.data, m.version, nil
}

func (m *memory) Save(_ context.Context, data []byte, ifVersion int64) error {
	if f := m.before; f != nil {
		m.before = nil
		f()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.version != ifVersion {
		return ring.ErrChanged
	}
	m.data, m.version = bytes.Clone(data), m.version+1
	return nil
}

// line is a connection to a storage that can break.
type line struct {
	ring.Storage
	cut   atomic.Bool
	reads atomic.Int64
	slow  func() // What happens while it is read.
}

var errCut = errors.New("the storage is out of reach")

func (l *line) Load(ctx context.Context) (data []byte, version int64, err error) {
	l.reads.Add(1)
	if l.cut.Load() {
		return nil, 0, errCut
	}
	if l.slow != nil {
		l.slow()
	}
	return l.Storage.Load(ctx)
}

func (l *line) Save(ctx context.Context, data []byte, ifVersion int64) error {
	if l.cut.Load() {
		return errCut
	}
	return l.Storage.Save(ctx, data, ifVersion)
}

// newTable is the table of a fresh SQLite file, opened as internal/store does.
func newTable(t testing.TB) ring.Table {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "store.db")+
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.Exec(`CREATE TABLE signing_ring (id INTEGER PRIMARY KEY, version BIGINT NOT NULL, data BYTEA NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	return ring.Table{DB: db}
}

// config is that of a ring in memory.
func config(t testing.TB, c *clock) ring.Config {
	return ring.Config{Storage: &memory{}, Sealer: newSealer(t), Now: c.now}
}

func create(t testing.TB, c ring.Config) *ring.Ring {
	t.Helper()
	r, err := ring.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t testing.TB, c ring.Config) *ring.Ring {
	t.Helper()
	r, err := ring.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// later moves the clock and lets the rings see it.
func later(t testing.TB, c *clock, d time.Duration, rings ...*ring.Ring) {
	t.Helper()
	c.add(d)
	for _, r := range rings {
		if err := r.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func rotate(t testing.TB, r *ring.Ring) ring.Key {
	t.Helper()
	k, err := r.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func taint(t testing.TB, r *ring.Ring, kid string) ring.Tainted {
	t.Helper()
	tainted, err := r.Taint(t.Context(), kid)
	if err != nil {
		t.Fatal(err)
	}
	return tainted
}

func sign(t testing.TB, r *ring.Ring) string {
	t.Helper()
	raw, err := r.Sign([]byte(`{"sub":"alice"}`), "at+jwt")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func verify(t testing.TB, document []byte, raw string) error {
	t.Helper()
	set, err := jwks.Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := set.Verify(profile, raw)
	if err == nil && string(payload) != `{"sub":"alice"}` {
		t.Errorf("Verify = %q", payload)
	}
	return err
}

func header(t failer, raw string) string {
	t.Helper()
	head, err := base64.RawURLEncoding.DecodeString(raw[:strings.IndexByte(raw, '.')])
	if err != nil {
		t.Fatal(err)
	}
	return string(head)
}

// signedBy is the kid of a token.
func signedBy(t failer, raw string) string {
	t.Helper()
	var h struct{ KID string }
	if err := json.Unmarshal([]byte(header(t, raw)), &h); err != nil {
		t.Fatal(err)
	}
	return h.KID
}

// published are the kids of a document.
func published(t failer, document []byte) []string {
	t.Helper()
	var doc struct{ Keys []struct{ KID string } }
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	var kids []string
	for _, k := range doc.Keys {
		kids = append(kids, k.KID)
	}
	return kids
}

// failer is a test, or a case of a property.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// states are those of all keys, in order.
func states(r *ring.Ring) string {
	var list []string
	for _, k := range r.List() {
		list = append(list, string(k.State))
	}
	return strings.Join(list, " ")
}
