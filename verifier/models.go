package verifier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// Bounds of asking an upstream for its models.
const (
	maxModelList     = 1 << 20
	modelListTimeout = 10 * time.Second
)

// listModels answers with the models that the token may use, of all upstreams.
// Of upstreams that can't be asked, nothing is listed; if none can, the call
// fails.
func (v *Verifier) listModels(c *call, w http.ResponseWriter, r *http.Request) error {
	list := []byte(`{"object":"list","data":[`)
	seen := map[string]bool{}
	var failures []error
	for _, u := range v.upstreams {
		models, err := u.listModels(r.Context(), c.rec.Decision)
		if err != nil {
			v.Log.Warn("asking for models", "upstream", u.Name, "err", err.Error())
			failures = append(failures, err)
			continue
		}
		for _, m := range models {
			if seen[m.id] || !u.has(m.id) || !c.claims.Scope.AllowModel(m.id) {
				continue
			}
			if len(seen) > 0 {
				list = append(list, ',')
			}
			list = append(list, m.raw...)
			seen[m.id] = true
		}
	}
	if len(failures) == len(v.upstreams) {
		return errors.Join(failures...)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Request-Id", c.rec.Decision)
	_, _ = w.Write(append(list, "]}\n"...)) // The client may have gone.
	return nil
}

// model is one entry of an upstream's list.
type model struct {
	id  string
	raw []byte // The entry as the upstream wrote it.
}

func (u *upstream) listModels(ctx context.Context, decision string) ([]model, error) {
	ctx, cancel := context.WithTimeout(ctx, modelListTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.base.JoinPath("/v1/models").String(), nil)
	if err != nil {
		return nil, err
	}
	u.prepare(req, decision)
	res, err := u.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, errUpstream
	}
	doc, err := io.ReadAll(io.LimitReader(res.Body, maxModelList))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDied, err)
	}
	return readModels(doc)
}

// readModels reads {"data": [{"id": …}, …]}. Entries without an id that is a
// model's name are left out: no scope could name them.
func readModels(doc []byte) ([]model, error) {
	members, err := strictjson.Object(doc, strictjson.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	for _, m := range members {
		if m.Name != "data" {
			continue
		}
		entries, err := strictjson.Array(m.Raw, strictjson.Limits{})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBadAnswer, err)
		}
		var models []model
		for _, e := range entries {
			fields, err := strictjson.Object(e.Raw, strictjson.Limits{})
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errBadAnswer, err)
			}
			for _, f := range fields {
				if id, ok := f.Text(); ok && f.Name == "id" {
					models = append(models, model{id, e.Raw})
				}
			}
		}
		return models, nil
	}
	return nil, errBadAnswer
}
