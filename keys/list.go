package keys

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/keys/format"
)

// List returns a page of keys.
func (s *Store) List(ctx context.Context, f policy.KeyFilter, now time.Time) (policy.KeyPage, error) {
	condition, args, err := where(f, now)
	if err != nil {
		return policy.KeyPage{}, err
	}
	limit := f.Limit
	if limit <= 0 || limit > policy.MaxPage {
		limit = policy.MaxPage
	}
	found, err := s.query(ctx, s.db, `k.id IN (SELECT id FROM machine_keys WHERE `+condition+`
		ORDER BY created_at DESC, id DESC LIMIT `+strconv.Itoa(limit+1)+`)`, args...)
	if err != nil {
		return policy.KeyPage{}, err
	}
	page := policy.KeyPage{Keys: []policy.Key{}}
	if len(found) > limit {
		found = found[:limit]
		last := found[limit-1]
		page.Next = strconv.FormatInt(toUnix(last.CreatedAt), 10) + cursorDot + last.ID
	}
	for _, r := range found {
		switch {
		case !r.forged:
			page.Keys = append(page.Keys, r.Key)
		case format.IsID(r.ID):
			page.Forged = append(page.Forged, r.ID)
		default:
			page.Forged = append(page.Forged, "?") // It may be a text for people to read.
		}
	}
	return page, nil
}

// cursorDot stands in a cursor between time and id, and in no number.
const cursorDot = "."

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
		text, id, ok := strings.Cut(f.After, cursorDot)
		created, err := strconv.ParseInt(text, 10, 64)
		if !ok || err != nil || !utf8.ValidString(id) || strings.Contains(id, "\x00") {
			return "", nil, policy.ErrCursor
		}
		at := arg(created)
		terms = append(terms, "(created_at < "+at+" OR created_at = "+at+" AND id < "+arg(id)+")")
	}
	return strings.Join(terms, " AND "), args, nil
}
