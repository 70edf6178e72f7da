package verifier

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// Bounds of an upstream's list of models.
const (
	maxList     = 8 << 20 // Bytes.
	maxModels   = 20_000
	maxOwner    = 100 // Bytes of "owned_by".
	listTimeout = 15 * time.Second
	listPath    = "/v1/models"
)

// source is where a list of models comes from.
type source struct {
	name   string
	serves func(model string) bool
	fetch  func() (models []route.Listed, status int, err error)
}

// sources are the upstreams. A model counts as the upstream's only if a call to
// it would go there. A server that can't be asked has the models that the
// configuration names.
func (v *Verifier) sources(r *http.Request, c *call) []source {
	list := make([]source, len(v.upstreams.All))
	for i, u := range v.upstreams.All {
		list[i] = source{name: u.Name, serves: func(model string) bool {
			to, name := v.upstreams.Serving(model)
			return to == u && name == model
		}}
		if u.Lists() {
			list[i].fetch = func() ([]route.Listed, int, error) { return fetchList(u, r, c) }
		} else {
			list[i].fetch = func() ([]route.Listed, int, error) { return configured(u), 0, nil }
		}
	}
	return list
}

func configured(u *upstream.Server) (models []route.Listed) {
	for _, name := range u.Models {
		if token.ValidModel(name) {
			models = append(models, route.Listed{ID: name})
		}
	}
	return models
}

func fetchList(u *upstream.Server, r *http.Request, c *call) (models []route.Listed, status int, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), min(listTimeout, u.ResponseTimeout))
	defer cancel()
	out := outgoing(ctx, r, c, u)
	out.URL.Path = listPath // Whichever list the client asked for.
	if err := c.decorate(u, out.Header); err != nil {
		return nil, 0, err
	}
	res, err := u.RoundTrip(out)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode != http.StatusOK || media != "application/json" || res.Header.Get("Content-Encoding") != "" {
		return nil, res.StatusCode, fmt.Errorf("it answered %d %q", res.StatusCode, media)
	}
	doc, err := io.ReadAll(io.LimitReader(res.Body, maxList)) // Of a longer one remains what is no JSON.
	if err == nil {
		models, err = parseModels(doc)
	}
	// The server's names are its own; ours are the canonical ones.
	for i := range models {
		models[i].ID = u.Family.CanonicalName(models[i].ID)
	}
	return models, res.StatusCode, err
}

// handlerSource is a handler in this process.
func handlerSource(next http.Handler, r *http.Request) source {
	return source{
		serves: func(string) bool { return true },
		fetch: func() ([]route.Listed, int, error) {
			w := &memory{header: http.Header{}, status: http.StatusOK}
			next.ServeHTTP(w, r)
			if w.status != http.StatusOK {
				return nil, w.status, fmt.Errorf("it answered %d", w.status)
			}
			models, err := parseModels(w.body.Bytes())
			return models, w.status, err
		},
	}
}

// memory is a ResponseWriter that keeps what it is given, up to maxList.
type memory struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (m *memory) Header() http.Header { return m.header }

func (m *memory) WriteHeader(status int) { m.status = status }

func (m *memory) Write(p []byte) (int, error) {
	if m.body.Len()+len(p) > maxList {
		return 0, refusal.ErrTooLarge
	}
	return m.body.Write(p)
}

// listed is what one source came to.
type listed struct {
	source
	models []route.Listed
	status int
	err    error
}

// listModels answers with the models that the token covers, of all sources, in
// the order of the configuration. A source that fails is left out, so that one
// dead server hides no others; if all fail, so does the call.
func (v *Verifier) listModels(w *answer, c *call, sources []source) error {
	c.spending.sent = true
	c.tellLimits(w.Header())
	lists := make([]listed, len(sources))
	var wait sync.WaitGroup
	for i, s := range sources {
		wait.Go(func() { lists[i] = s.list() })
	}
	wait.Wait()

	var models []route.Listed
	seen, failed := map[string]bool{}, 0
	for _, l := range lists {
		if l.err != nil {
			failed++
			v.c.Log.LogAttrs(c.client, slog.LevelWarn, "listing an upstream's models", slog.String("decision", c.record.Decision),
				slog.String("upstream", l.name), slog.String("err", l.err.Error()))
		}
		for _, m := range l.models {
			if !seen[m.ID] && l.serves(m.ID) && c.claims.Scope.AllowModel(m.ID) {
				seen[m.ID] = true
				models = append(models, m)
			}
		}
	}
	if len(lists) == 1 {
		c.record.Upstream, c.record.UpstreamStatus = lists[0].name, lists[0].status
	}
	if failed > 0 && failed == len(sources) {
		return refusal.ErrUpstream
	}
	body := c.route.List(models)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(requestID, c.record.Decision)
	_, _ = w.Write(body) // The client may have gone; nothing is left to do.
	return nil
}

func (s source) list() (l listed) {
	l.source = s
	defer func() {
		if p := recover(); p != nil { // Nobody else would, on a goroutine of its own.
			l.models, l.err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	l.models, l.status, l.err = s.fetch()
	return l
}

// parseModels reads a list strictly. Names that no scope can cover are left out.
func parseModels(doc []byte) ([]route.Listed, error) {
	object, err := strictjson.Object(doc, strictjson.Limits{})
	if err != nil {
		return nil, err
	}
	var models []route.Listed
	for _, member := range object {
		if member.Name != "data" {
			continue
		}
		elements, err := strictjson.Array(member.Raw, strictjson.Limits{})
		if err != nil {
			return nil, err
		}
		if len(elements) > maxModels {
			return nil, refusal.ErrTooLarge
		}
		for _, e := range elements {
			m, err := parseModel(e.Raw)
			if err != nil {
				return nil, err
			}
			if token.ValidModel(m.ID) {
				models = append(models, m)
			}
		}
	}
	return models, nil
}

func parseModel(doc []byte) (m route.Listed, err error) {
	object, err := strictjson.Object(doc, strictjson.Limits{})
	for _, member := range object {
		switch member.Name {
		case "id":
			m.ID, _ = member.Text()
		case "owned_by":
			m.Owner, _ = member.Text()
		case "created":
			m.Created, _ = member.Int()
		}
	}
	if len(m.Owner) > maxOwner {
		m.Owner = ""
	}
	return m, err
}
