package body_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

const (
	maxBody  = 10 << 20
	maxLarge = 64 << 20
)

// membersOf are the rules of a route of the registry.
func membersOf(t testing.TB, method, path string) *route.Members {
	t.Helper()
	m, _, ok := route.Find(method, path)
	if !ok {
		t.Fatalf("no route %s %s", method, path)
	}
	return m.Members
}

// chat is the route of chat calls; forms is one with the same rules that takes
// forms with files.
func chat(t testing.TB) *route.Route {
	return &route.Route{Carrier: route.InBody, Members: membersOf(t, "POST", "/v1/chat/completions")}
}

func forms(t testing.TB) *route.Route {
	return &route.Route{Carrier: route.InForm, Members: chat(t).Members, LargeBody: true}
}

// source is a body as a server hands it over.
func source(r *route.Route, doc []byte, header ...string) *body.Source {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = append(h[header[i]], header[i+1])
	}
	if h["Content-Type"] == nil {
		h.Set("Content-Type", "application/json")
	}
	limit := body.Limits{Body: maxBody, Large: maxLarge}.Of(r)
	return &body.Source{Body: http.MaxBytesReader(nil, io.NopCloser(bytes.NewReader(doc)), limit), Header: h, Length: -1, Max: limit, Disk: &body.Disk{Max: maxLarge}}
}

// readAll is what an upstream gets of a document.
func readAll(t testing.TB, c *body.Content) []byte {
	t.Helper()
	in := c.Open()
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil || int64(len(b)) != c.Len() {
		t.Fatalf("read %d bytes of %d: %v", len(b), c.Len(), err)
	}
	return b
}

// written is what a body comes to, without bounds.
func written(t testing.TB, s *body.Source, r *route.Route) ([]byte, error) {
	t.Helper()
	d, err := body.Read(s, r)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := s.Failed(); err != nil {
		return nil, err
	}
	if !s.Ended() {
		t.Fatal("a body was taken before its end")
	}
	c, err := d.Write("", body.Bounds{})
	if err != nil {
		return nil, err
	}
	return readAll(t, &c), nil
}

// refused fails the test if err is not the refusal that it should be.
func refused(t testing.TB, err, want error, detail string) {
	t.Helper()
	var d *refusal.Denial
	if !errors.Is(err, want) || detail != "" && (!errors.As(err, &d) || !strings.Contains(d.Detail, detail)) {
		t.Errorf("refused by %v (%+v), want %v, %q", err, d, want, detail)
	}
}

// encode encodes a document.
func encode(t testing.TB, coding string, doc []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	case "br":
		w = brotli.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		w = z
	default:
		t.Fatalf("no coding %q", coding)
	}
	_, err := w.Write(doc)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var codings = []string{"gzip", "deflate", "br", "zstd"}

const formType = `multipart/form-data; boundary=B`

// formOf is a form of fields: names and values in turn.
func formOf(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&b, "--B\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", pairs[i], pairs[i+1])
	}
	return b.String() + "--B--\r\n"
}
