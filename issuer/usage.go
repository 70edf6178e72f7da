package issuer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/usage"
)

// How long usage is kept.
const (
	usageKept   = 400 * day
	batchesKept = 90 * day // Which batch of a verifier came last.
)

// takeUsage is POST /usage: a verifier, by its own machine key, tells what calls
// cost. A batch that comes again counts once.
func (s *Server) takeUsage(w http.ResponseWriter, r *http.Request) error {
	return s.forVerifier(r, func(key policy.Key, now time.Time) error {
		b, err := usage.ReadBatch(http.MaxBytesReader(w, r.Body, usage.MaxBytes), now)
		if errors.Is(err, usage.ErrBatch) {
			return badRequest("The batch is out of bounds.")
		}
		if err != nil {
			return err
		}
		b.Holder = key.ID + "/" + b.Holder // No verifier takes another's numbers.
		if err := s.keepUsage(r.Context(), b, now); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		s.watch.wake()
		return nil
	})
}

// usageChunk is how many rows share a statement.
const usageChunk = 200

// keepUsage adds a batch to the sums, unless that was done.
func (s *Server) keepUsage(ctx context.Context, b usage.Batch, now time.Time) error {
	// All who add lock rows in one order, so that nobody waits for one that waits
	// for them.
	slices.SortFunc(b.Rows, func(x, y usage.Row) int {
		return slices.Compare([]string{x.Key, strconv.FormatInt(x.Hour.Unix(), 10), x.Identity, x.Model}, []string{y.Key, strconv.FormatInt(y.Hour.Unix(), 10), y.Identity, y.Model})
	})
	for i := 1; i < len(b.Rows); i++ {
		if x, y := &b.Rows[i-1], &b.Rows[i]; x.Key == y.Key && x.Hour.Equal(y.Hour) && x.Identity == y.Identity && x.Model == y.Model {
			return badRequest("A row stands twice.")
		}
	}
	err := store.Tx(ctx, s.DB, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO usage_batches (holder, seq, lost, seen_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (holder) DO UPDATE SET seq = excluded.seq, lost = excluded.lost, seen_at = excluded.seen_at WHERE usage_batches.seq < excluded.seq`,
			b.Holder, b.Seq, b.Lost, now.Unix())
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err // It was taken before.
		}
		for rows := range slices.Chunk(b.Rows, usageChunk) {
			if err := addUsage(ctx, tx, rows); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keeping usage: %w", err)
	}
	return nil
}

func addUsage(ctx context.Context, tx *sql.Tx, rows []usage.Row) error {
	var query strings.Builder
	query.WriteString(`INSERT INTO usage (key_id, hour, identity, model, team, grant_name, requests, input_tokens, output_tokens, cached_tokens, unreported) VALUES `)
	args := make([]any, 0, 11*len(rows))
	for i := range rows {
		r := &rows[i]
		if i > 0 {
			query.WriteString(", ")
		}
		for column := range 11 {
			query.WriteString(map[bool]string{true: "($", false: ", $"}[column == 0] + strconv.Itoa(len(args)+column+1))
		}
		query.WriteString(")")
		args = append(args, r.Key, r.Hour.Unix(), r.Identity, r.Model, r.Team, r.Grant, r.Requests, r.Input, r.Output, r.Cached, r.Unreported)
	}
	query.WriteString(` ON CONFLICT (key_id, hour, identity, model) DO UPDATE SET team = excluded.team, grant_name = excluded.grant_name,
		requests = usage.requests + excluded.requests, input_tokens = usage.input_tokens + excluded.input_tokens,
		output_tokens = usage.output_tokens + excluded.output_tokens, cached_tokens = usage.cached_tokens + excluded.cached_tokens,
		unreported = usage.unreported + excluded.unreported`)
	_, err := tx.ExecContext(ctx, query.String(), args...)
	return err
}
