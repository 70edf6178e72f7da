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
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// Bounds of an upstream's list of models.
const (
	maxList     = 8 << 20 // Bytes.
	maxModels   = 20_000
	maxOwner    = 100 // Bytes of "owned_by".
	listTimeout = 15 * time.Second
)

// source is where a list of models comes from.
type source struct {
	name   string
	serves func(model string) bool
	fetch  func() (doc []byte, status int, err error)
}

// sources are the upstreams. A model counts as the upstream's only if a call to
// it would go there.
func (v *Verifier) sources(r *http.Request, c *call) []source {
	list := make([]source, len(v.upstreams.All))
	for i, u := range v.upstreams.All {
		list[i] = source{
			name: u.Name,
			serves: func(model string) bool {
				to, name := v.upstreams.Serving(model)
				return to == u && name == model
			},
			fetch: func() ([]byte, int, error) { return fetchList(u, r, c) },
		}
	}
	return list
}

func fetchList(u *upstream.Server, r *http.Request, c *call) (doc []byte, status int, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), min(listTimeout, u.ResponseTimeout))
	defer cancel()
	out := outgoing(ctx, r, c, u)
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
	doc, err = io.ReadAll(io.LimitReader(res.Body, maxList)) // Of a longer one remains what is no JSON.
	return doc, res.StatusCode, err
}

// handlerSource is a handler in this process.
func handlerSource(next http.Handler, r *http.Request) source {
	return source{
		serves: func(string) bool { return true },
		fetch: func() ([]byte, int, error) {
			w := &memory{header: http.Header{}, status: http.StatusOK}
			next.ServeHTTP(w, r)
			if w.status != http.StatusOK {
				return nil, w.status, fmt.Errorf("it answered %d", w.status)
			}
			return w.body.Bytes(), w.status, nil
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
	models []model
	status int
	err    error
}

type model struct {
	id, owner string
	created   int64
}

// listModels answers with the models that the token covers, of all sources, in
// the order of the configuration. A source that fails is left out, so that one
// dead server hides no others; if all fail, so does the call.
func (v *Verifier) listModels(w *answer, c *call, sources []source) error {
	lists := make([]listed, len(sources))
	var wait sync.WaitGroup
	for i, s := range sources {
		wait.Go(func() { lists[i] = s.list() })
	}
	wait.Wait()

	body, seen, failed := []byte(`{"object":"list","data":[`), map[string]bool{}, 0
	for _, l := range lists {
		if l.err != nil {
			failed++
			v.c.Log.LogAttrs(c.client, slog.LevelWarn, "listing an upstream's models", slog.String("decision", c.record.Decision),
				slog.String("upstream", l.name), slog.String("err", l.err.Error()))
		}
		for _, m := range l.models {
			if !seen[m.id] && l.serves(m.id) && c.claims.Scope.AllowModel(m.id) {
				if len(seen) > 0 {
					body = append(body, ',')
				}
				seen[m.id] = true
				body = m.append(body)
			}
		}
	}
	if len(lists) == 1 {
		c.record.Upstream, c.record.UpstreamStatus = lists[0].name, lists[0].status
	}
	if failed > 0 && failed == len(sources) {
		return refusal.ErrUpstream
	}
	body = append(body, "]}"...)
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
	doc, status, err := s.fetch()
	l.status = status
	if err == nil {
		l.models, err = parseModels(doc)
	}
	l.err = err
	return l
}

// parseModels reads a list strictly. Names that no scope can cover are left out.
func parseModels(doc []byte) ([]model, error) {
	object, err := strictjson.Object(doc, strictjson.Limits{})
	if err != nil {
		return nil, err
	}
	var models []model
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
			if token.ValidModel(m.id) {
				models = append(models, m)
			}
		}
	}
	return models, nil
}

func parseModel(doc []byte) (m model, err error) {
	object, err := strictjson.Object(doc, strictjson.Limits{})
	for _, member := range object {
		switch member.Name {
		case "id":
			m.id, _ = member.Text()
		case "owned_by":
			m.owner, _ = member.Text()
		case "created":
			m.created, _ = member.Int()
		}
	}
	if len(m.owner) > maxOwner {
		m.owner = ""
	}
	return m, err
}

func (m *model) append(b []byte) []byte {
	b = strictjson.AppendText(append(b, `{"id":`...), m.id)
	b = strconv.AppendInt(append(b, `,"object":"model","created":`...), m.created, 10)
	b = strictjson.AppendText(append(b, `,"owned_by":`...), m.owner)
	return append(b, '}')
}
