package issuer

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// Bounds of a question about usage.
const (
	maxUsageSpan = usageKept
	maxUsageRows = 50_000
)

// usageColumns are what usage can be added up by, from the name in a question to
// the column. Days are those of UTC.
var usageColumns = map[string]string{
	"key": "key_id", "identity": "identity", "model": "model", "team": "team", "grant": "grant_name", "hour": "hour", "day": "hour - hour % 86400",
}

// usageNumbers are what is added up.
var usageNumbers = []string{"requests", "input_tokens", "output_tokens", "cached_tokens", "unreported"}

// usageQuestion is what somebody wants to know.
type usageQuestion struct {
	from, to time.Time
	by       []string
	only     map[string]string // From a name of usageColumns to the value.
	csv      bool
}

func readUsageQuestion(r *http.Request, now time.Time) (usageQuestion, error) {
	q, err := readQuery(r, "from", "to", "by", "format", "key", "identity", "team", "model", "grant")
	if err != nil {
		return usageQuestion{}, err
	}
	u := usageQuestion{from: now.Add(-day), to: now.Add(time.Hour), by: []string{"key", "model"}, only: map[string]string{}}
	for name, to := range map[string]*time.Time{"from": &u.from, "to": &u.to} {
		if q[name] == "" {
			continue
		}
		if *to, err = time.Parse(time.RFC3339, q[name]); err != nil {
			return usageQuestion{}, badRequest(name + " must be a time such as 2026-01-31T00:00:00Z.")
		}
	}
	if !u.from.Before(u.to) || u.to.Sub(u.from) > maxUsageSpan {
		return usageQuestion{}, badRequest("from must be before to, by at most 400 days.")
	}
	if q["by"] != "" {
		u.by = strings.Split(q["by"], ",")
	}
	for i, name := range u.by {
		if usageColumns[name] == "" || slices.Contains(u.by[:i], name) {
			return usageQuestion{}, badRequest("by must be some of " + strings.Join(slices.Sorted(maps.Keys(usageColumns)), ", ") + ".")
		}
	}
	for _, name := range []string{"key", "identity", "team", "model", "grant"} {
		if text, given := q[name]; given {
			if text != "" && !idp.Printable(text) {
				return usageQuestion{}, badRequest(name + " has a bad value.")
			}
			u.only[name] = text
		}
	}
	if q["format"] != "" && q["format"] != "json" && q["format"] != "csv" {
		return usageQuestion{}, badRequest("format must be json or csv.")
	}
	u.csv = q["format"] == "csv"
	return u, nil
}

// sql is the question as a query. Of whom is empty: of everybody.
func (u *usageQuestion) sql(whom string) (query string, args []any) {
	add := func(value any) string {
		args = append(args, value)
		return "$" + strconv.Itoa(len(args))
	}
	columns := make([]string, len(u.by))
	for i, name := range u.by {
		columns[i] = usageColumns[name]
	}
	query = "SELECT " + strings.Join(columns, ", ")
	for _, n := range usageNumbers {
		query += ", CAST(sum(" + n + ") AS BIGINT)"
	}
	query += " FROM usage WHERE hour >= " + add(u.from.Unix()) + " AND hour < " + add(u.to.Unix())
	for _, name := range slices.Sorted(maps.Keys(u.only)) {
		query += " AND " + usageColumns[name] + " = " + add(u.only[name])
	}
	if whom != "" {
		query += " AND (identity = " + add(whom) + " OR key_id IN (SELECT id FROM machine_keys WHERE owner = " + add(whom) + "))"
	}
	list := strings.Join(columns, ", ")
	return query + " GROUP BY " + list + " ORDER BY " + list + " LIMIT " + add(maxUsageRows+1), args
}

// usageRow is a line of the answer.
type usageRow struct {
	By      []any // As asked for.
	Numbers []int64
}

func (s *Server) queryUsage(ctx context.Context, u *usageQuestion, whom string) (rows []usageRow, err error) {
	query, args := u.sql(whom)
	found, err := s.DB.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	defer func() { _ = found.Close() }()
	for found.Next() {
		r := usageRow{make([]any, len(u.by)), make([]int64, len(usageNumbers))}
		into := []any{}
		for i := range r.By {
			into = append(into, &r.By[i])
		}
		for i := range r.Numbers {
			into = append(into, &r.Numbers[i])
		}
		if err := found.Scan(into...); err != nil {
			return nil, fmt.Errorf("reading usage: %w", err)
		}
		for i, name := range u.by {
			if unix, ok := r.By[i].(int64); ok && (name == "hour" || name == "day") {
				r.By[i] = time.Unix(unix, 0).UTC().Format(time.RFC3339)
			}
			if b, ok := r.By[i].([]byte); ok {
				r.By[i] = string(b)
			}
		}
		rows = append(rows, r)
	}
	if err := found.Err(); err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	if len(rows) > maxUsageRows {
		return nil, badRequest("The answer has more than " + strconv.Itoa(maxUsageRows) + " rows: ask for a shorter time, or by less.")
	}
	return rows, nil
}

// usage is GET /v1/usage: what calls cost, of everybody for who may see it, of
// their own keys and calls for everybody else.
func (s *Server) usage(w http.ResponseWriter, r *http.Request) error {
	var u usageQuestion
	var rows []usageRow
	ask := func(p person, _ *audit.Record, now time.Time) (_ any, err error) {
		if u, err = readUsageQuestion(r, now); err != nil {
			return nil, err
		}
		whom := p.String()
		if s.mayRead(p) {
			whom = ""
		}
		if rows, err = s.queryUsage(r.Context(), &u, whom); err != nil {
			return nil, err
		}
		if u.csv {
			return written(func(w http.ResponseWriter) error { return writeUsage(w, &u, rows) }), nil
		}
		list := make([]map[string]any, len(rows))
		for i, row := range rows {
			list[i] = map[string]any{}
			for j, name := range u.by {
				list[i][name] = row.By[j]
			}
			for j, name := range usageNumbers {
				list[i][name] = row.Numbers[j]
			}
		}
		return map[string]any{"from": u.from.UTC(), "to": u.to.UTC(), "usage": list}, nil
	}
	return s.api(w, r, "usage", http.StatusOK, ask)
}

func writeUsage(w http.ResponseWriter, u *usageQuestion, rows []usageRow) error {
	h := w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="usage.csv"`)
	out := csv.NewWriter(w)
	if err := out.Write(append(slices.Clone(u.by), usageNumbers...)); err != nil {
		return err
	}
	for _, row := range rows {
		line := []string{}
		for _, v := range row.By {
			line = append(line, cell(fmt.Sprint(v)))
		}
		for _, n := range row.Numbers {
			line = append(line, strconv.FormatInt(n, 10))
		}
		if err := out.Write(line); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// cell keeps a text from being a formula to a spreadsheet: names are others'
// words.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// budgetState is how one limit of one key stands.
type budgetState struct {
	Key    string    `json:"key_id"`
	Limit  string    `json:"limit"`
	Most   int64     `json:"most"`
	Spent  int64     `json:"spent"`
	Held   int64     `json:"held"` // In verifiers' hands: spent, or not, in a moment.
	Left   int64     `json:"left"`
	Resets time.Time `json:"resets_at,omitzero"`
}

// maxBudgetKeys bounds whose budgets are told at once.
const maxBudgetKeys = 100

// budgets are how the limits of a person's own keys stand: of tokens with all that
// the keys' grants give.
func (s *Server) budgets(ctx context.Context, p person, now time.Time) ([]budgetState, error) {
	page, err := s.Keys.List(ctx, policy.KeyFilter{Owner: p.String(), State: policy.Active, Limit: maxBudgetKeys}, now)
	if err != nil {
		return nil, err
	}
	states, accounts := []budgetState{}, []string{}
	for _, k := range page.Keys {
		var grants []string
		c := token.Claims{ClientID: k.ID, Subject: p.String(), Team: k.Team, Limits: k.Limits}
		for _, name := range k.Grants {
			g, ok := s.Grants[name]
			if !ok || !g.Admits(p.Identity) {
				continue
			}
			grants, c.Limits, c.Tier = append(grants, name), c.Limits.Intersect(g.Limits), cmp.Or(c.Tier, g.Tier)
		}
		c.Grant = strings.Join(grants, " ")
		for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
			l, err := token.ParseLimit(name)
			if err != nil {
				return nil, fmt.Errorf("reading the limits of a key: %w", err)
			}
			from, to := l.Span(now)
			states = append(states, budgetState{Key: k.ID, Limit: name, Most: c.Limits[name], Resets: to.UTC()})
			accounts = append(accounts, ledger.Name(s.URL, &l, l.SharerOf(&c), from))
		}
	}
	balances, err := s.Ledger.Balances(ctx, accounts)
	if err != nil {
		return nil, err
	}
	for i, b := range balances {
		states[i].Spent, states[i].Held, states[i].Left = b.Spent, b.Held, max(0, states[i].Most-b.Spent-b.Held)
	}
	return states, nil
}
