package keys

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// List returns a page of keys, newest first, and the cursor of the next, which
// is empty after the last.
func (s *Store) List(ctx context.Context, f policy.KeyFilter, now time.Time) ([]policy.Key, string, error) {
	condition, args, err := where(f, now)
	if err != nil {
		return nil, "", err
	}
	limit := f.Limit
	if limit <= 0 || limit > policy.MaxPage {
		limit = policy.MaxPage
	}
	found, err := s.query(ctx, s.db, `k.id IN (SELECT id FROM machine_keys WHERE `+condition+`
		ORDER BY created_at DESC, id DESC LIMIT `+strconv.Itoa(limit+1)+`)`, args...)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(found) > limit {
		found = found[:limit]
		last := found[limit-1]
		next = strconv.FormatInt(last.CreatedAt.Unix(), 10) + "-" + last.ID
	}
	list := make([]policy.Key, len(found))
	for i, r := range found {
		list[i] = r.Key
	}
	return list, next, nil
}

// where is the filter as SQL. No text of a client's stands in it.
func where(f policy.KeyFilter, now time.Time) (string, []any, error) {
	var terms []string
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	if f.Owner != "" {
		terms = append(terms, "owner = "+arg(f.Owner))
	}
	if f.Team != "" {
		terms = append(terms, "team = "+arg(f.Team))
	}
	switch f.State {
	case "":
		terms = append(terms, "state <> 'deleted'")
	case policy.Active:
		terms = append(terms, "state = 'active' AND expires_at > "+arg(now.Unix()))
	case policy.Expired:
		terms = append(terms, "state = 'active' AND expires_at <= "+arg(now.Unix()))
	default:
		terms = append(terms, "state = "+arg(string(f.State)))
	}
	if !f.Due.IsZero() {
		due := arg(f.Due.Unix())
		terms = append(terms, "(expires_at < "+due+" OR rotate_after < "+due+")")
	}
	if f.After != "" {
		text, id, ok := strings.Cut(f.After, "-")
		created, err := strconv.ParseInt(text, 10, 64)
		if !ok || err != nil {
			return "", nil, policy.ErrCursor
		}
		at := arg(created)
		terms = append(terms, "(created_at < "+at+" OR created_at = "+at+" AND id < "+arg(id)+")")
	}
	return strings.Join(terms, " AND "), args, nil
}
