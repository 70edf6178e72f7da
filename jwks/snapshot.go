package jwks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hourpass/hourpass/jwks/internal/disk"
)

// snapshotVersion is that of the snapshot's format. A file of another version is
// not read: it is a copy, and the next fetch writes a new one.
const snapshotVersion = 1

// maxFuture is how far a snapshot's time may lie ahead of the clock.
const maxFuture = time.Minute

type snapshot struct {
	Version   int             `json:"version"`
	URL       string          `json:"url"`
	FetchedAt time.Time       `json:"fetched_at"`
	ETag      string          `json:"etag,omitempty"`
	Document  json.RawMessage `json:"document"`
}

// restore returns what the snapshot holds, or nothing. A snapshot is a help, not
// a need, so what is wrong with it is only logged.
func (r *Remote) restore() *held {
	if r.c.Snapshot == "" {
		return &held{}
	}
	h, err := r.load()
	if errors.Is(err, fs.ErrNotExist) {
		return &held{}
	}
	if err != nil {
		r.c.Log.Warn("reading a key set snapshot", "url", r.c.URL, "err", err.Error())
		return &held{}
	}
	r.c.Log.Info("took a key set from its snapshot", "url", r.c.URL, "keys", h.set.Len(), "fetched_at", h.at)
	return h
}

func (r *Remote) load() (*held, error) {
	data, err := disk.Read(r.c.Snapshot, 2*MaxDocument, 0o022)
	if err != nil {
		return nil, err
	}
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s is no snapshot: %w", r.c.Snapshot, err)
	}
	switch {
	case s.Version != snapshotVersion:
		return nil, fmt.Errorf("%s has version %d, want %d", r.c.Snapshot, s.Version, snapshotVersion)
	case s.URL != r.c.URL:
		// Another issuer's keys, or those of ours before it moved.
		return nil, fmt.Errorf("%s is the snapshot of another URL", r.c.Snapshot)
	case s.FetchedAt.After(r.c.Now().Add(maxFuture)):
		return nil, fmt.Errorf("%s is from the future, so that its age is not known", r.c.Snapshot)
	case len(s.ETag) > maxETag:
		return nil, fmt.Errorf("%s has too long an ETag", r.c.Snapshot)
	}
	set, err := Parse(s.Document)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.c.Snapshot, err)
	}
	return &held{set: set, doc: s.Document, etag: s.ETag, at: s.FetchedAt, generation: 1}, nil
}

// save writes h to the snapshot file, also when only its time is new, because
// its age is counted from there.
func (r *Remote) save(h *held) {
	if r.c.Snapshot == "" {
		return
	}
	data, err := json.Marshal(snapshot{snapshotVersion, r.c.URL, h.at.UTC().Round(0), h.etag, h.doc})
	if err == nil {
		err = disk.Write(r.c.Snapshot, append(data, '\n'))
	}
	if err != nil {
		r.c.Log.Warn("writing a key set snapshot", "url", r.c.URL, "err", err.Error())
	}
}
