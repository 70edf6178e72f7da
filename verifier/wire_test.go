package verifier_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier"
)

// lastCall is answered with 401, and with the connection's end.
const lastCall = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// talk sends bytes on a connection of their own and returns all answers, until
// the verifier ends the connection.
func (h *house) talk(bytes string) (answers []response) {
	h.t.Helper()
	return h.converse(bytes, false)
}

// converse is talk; if half, nothing comes behind the bytes, and the verifier
// knows.
func (h *house) converse(bytes string, half bool) (answers []response) {
	h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, bytes); err != nil {
		h.t.Fatal(err)
	}
	if half {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	r := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				h.t.Errorf("behind %d answers: %v", len(answers), err)
			}
			return answers
		}
		body, err := io.ReadAll(res.Body)
		answers = append(answers, response{res.StatusCode, res.Header, string(body), err, res.Close})
	}
}

// TestSmuggling: where two parsers could draw the line between two requests
// differently, there is one request or none, and what stands behind it is never
// one that nobody judged.
func TestSmuggling(t *testing.T) {
	h := newHouse(t)
	start := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + h.keys.token() + "\r\nContent-Type: application/json\r\n"
	const body = `{"model":"small"}` // 17 bytes, or 11 in hex.
	hidden := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Hidden: 1\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n" + body
	chunks := "11\r\n" + body + "\r\n0\r\n\r\n"
	for _, row := range []struct {
		name, bytes string
		statuses    string // Of all answers.
		passed      int    // What came to the upstream.
	}{
		{"one request", start + "Content-Length: 17\r\n\r\n" + body, "200 401", 1},
		{"one in chunks", start + "Transfer-Encoding: chunked\r\n\r\n" + chunks, "200", 1},
		{"the second has no token", start + "Content-Length: 17\r\n\r\n" + body + hidden, "200 401 401", 1},
		{"the first has no token", hidden + start + "Content-Length: 17\r\n\r\n" + body, "401 200 401", 1},
		{"chunks and length", start + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + hidden, "400", 0},
		{"two lengths", start + "Content-Length: 17\r\nContent-Length: 0\r\n\r\n" + body + hidden, "400", 0},
		{"two lengths in a line", start + "Content-Length: 17, 0\r\n\r\n" + body + hidden, "400", 0},
		{"a length with a sign", start + "Content-Length: +17\r\n\r\n" + body + hidden, "400", 0},
		{"a length in hex", start + "Content-Length: 0x11\r\n\r\n" + body + hidden, "400", 0},
		{"a length below 0", start + "Content-Length: -1\r\n\r\n" + body + hidden, "400", 0},
		{"a length beyond int64", start + "Content-Length: 99999999999999999999\r\n\r\n" + body, "400", 0},
		{"chunked twice", start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + hidden, "501", 0},
		{"chunked, then identity", start + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunks + hidden, "501", 0},
		{"gzip, then chunked", start + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks + hidden, "501", 0},
		{"chunked with a vertical tab", start + "Transfer-Encoding: \x0bchunked\r\n\r\n" + chunks + hidden, "400", 0},
		{"a blank before the colon", start + "Content-Length : 17\r\n\r\n" + body + hidden, "400", 0},
		{"a header without a colon", start + "Content-Length: 17\r\nX\r\n\r\n" + body + hidden, "400", 0},
		{"NUL in a header", start + "X-A: \x00\r\nContent-Length: 17\r\n\r\n" + body + hidden, "400", 0},
		{"a carriage return in a header", start + "X-A: a\rContent-Length: 0\r\nContent-Length: 17\r\n\r\n" + body + hidden, "400", 0},
		{"two hosts", "POST /v1/chat/completions HTTP/1.1\r\nHost: y\r\n" + strings.TrimPrefix(start, "POST /v1/chat/completions HTTP/1.1\r\n") + "Content-Length: 17\r\n\r\n" + body, "400", 0},
		{"a blank in the target", strings.Replace(start, "completions HTTP", "completions HTTP/1.1 HTTP", 1) + "Content-Length: 17\r\n\r\n" + body, "400", 0},
		{"HTTP/0.9", "GET /v1/models\r\n\r\n", "400", 0},
		{"a chunk longer than it says", start + "Transfer-Encoding: chunked\r\n\r\n10\r\n" + body + "\r\n0\r\n\r\n" + hidden, "400", 0},
		{"a chunk of a size beyond uint64", start + "Transfer-Encoding: chunked\r\n\r\n10000000000000011\r\n" + body + "\r\n0\r\n\r\n" + hidden, "400", 0},
		{"a body on GET", strings.Replace(start, "POST /v1/chat/completions", "GET /v1/models", 1) + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(hidden)) + hidden, "400 401", 0},
		{"chunks on GET", strings.Replace(start, "POST /v1/chat/completions", "GET /v1/models", 1) + "Transfer-Encoding: chunked\r\n\r\n" + chunks, "400", 0},
		{"an empty line first", "\r\n" + start + "Content-Length: 17\r\n\r\n" + body, "400", 0},

		// One reading each here, and nothing is read behind what others may read
		// differently.
		{"length and chunks", start + "Content-Length: 17\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + hidden, "200", 1},
		{"a folded length", start + "Content-Length:\r\n 17\r\nTransfer-Encoding:\r\n chunked\r\n\r\n" + chunks + hidden, "200", 1},
		{"the same length twice", start + "Content-Length: 17\r\nContent-Length: 17\r\n\r\n" + body + hidden, "200 401 401", 1},
		{"HTTP/1.0", strings.Replace(start, "/1.1", "/1.0", 1) + "Content-Length: 17\r\n\r\n" + body + hidden, "200", 1},
		{"it wants to be told to go on", start + "Expect: 100-continue\r\nContent-Length: 17\r\n\r\n" + body, "100 200 401", 1},
		{
			"trailers", start + "Trailer: Authorization, X-Auth-Subject\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n" + body + "\r\n0\r\nAuthorization: Bearer evil\r\nX-Auth-Subject: evil\r\n\r\n",
			"200", 1,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			var statuses []string
			for _, a := range h.talk(row.bytes + lastCall) {
				statuses = append(statuses, fmt.Sprint(a.status))
				if a.header.Get("Location") != "" || strings.Contains(a.header.Get("Content-Type"), "html") {
					t.Errorf("an answer with headers %v", a.header)
				}
			}
			if got := strings.Join(statuses, " "); got != row.statuses {
				t.Errorf("%q = %s, want %s", row.bytes, got, row.statuses)
			}
			arrived := h.arrived()
			if len(arrived) != row.passed {
				t.Errorf("%q: the upstream got %+v", row.bytes, arrived)
			}
			for _, a := range arrived {
				onlyAllowed(t, a)
				if a.body != body {
					t.Errorf("%q: the upstream got %q", row.bytes, a.body)
				}
			}
		})
	}
}

// TestBodyIsCutOff: what came of a body before it broke off is never judged, even
// if it would do.
func TestBodyIsCutOff(t *testing.T) {
	h := newHouse(t)
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + h.keys.token() + "\r\nContent-Type: application/json\r\n"
	for name, rest := range map[string]string{
		"shorter than its length":      "Content-Length: 18\r\n\r\n{\"model\":\"small\"}",
		"no last chunk":                "Transfer-Encoding: chunked\r\n\r\n11\r\n{\"model\":\"small\"}\r\n",
		"a bad chunk behind":           "Transfer-Encoding: chunked\r\n\r\n11\r\n{\"model\":\"small\"}\r\nzz\r\n",
		"an end of chunks with no end": "Transfer-Encoding: chunked\r\n\r\n11\r\n{\"model\":\"small\"}\r\n0\r\nX: y",
	} {
		before := len(h.records())
		got := h.converse(head+rest, true)
		if len(got) > 1 || len(got) == 1 && (got[0].status != 400 || got[0].failure(t).Code != "invalid_body") {
			t.Errorf("%s: %+v, want 400 invalid_body, or nothing", name, got)
		}
		if a := h.arrived(); len(a) > 0 {
			t.Errorf("%s: the upstream got %+v", name, a)
		}
		h.settle()
		if r := h.records()[before:]; len(r) != 1 || r[0].Outcome != "deny" || r[0].Reason != "body_read" {
			t.Errorf("%s: records %+v", name, r)
		}
	}
}

// TestHeadAndPreflight: neither is forwarded, whoever asks.
func TestHeadAndPreflight(t *testing.T) {
	h := newHouse(t)
	for _, line := range []string{"HEAD /v1/models", "HEAD /v1/models/small", "OPTIONS /v1/chat/completions"} {
		for _, credential := range []string{"", "Authorization: Bearer " + h.keys.token() + "\r\n"} {
			got := h.talk(line + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://evil.test\r\nAccess-Control-Request-Method: POST\r\n" + credential + "\r\n")
			if len(got) != 1 || got[0].status != 405 || got[0].header.Get("Allow") != "DELETE, GET, POST" || got[0].header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s = %+v", line, got)
			}
		}
	}
	if a := h.arrived(); len(a) > 0 {
		t.Errorf("the upstream got %+v", a)
	}
	if r := h.records(); len(r) != 6 || r[0].Reason != "method" {
		t.Errorf("records %+v", r)
	}
}

// TestRefusedConnections: what is left of a refused call's body is taken off the
// connection if it is short and there; nobody waits for more of it, and nothing
// of it is read as a request.
func TestRefusedConnections(t *testing.T) {
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	body := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n", n) + strings.Repeat("x", n) }
	for _, row := range []struct {
		name, bytes string
		timeout     time.Duration
		statuses    string
	}{
		{"without a body", head + "\r\n" + lastCall, time.Hour, "401 401"},
		{"all there", head + body(1000) + lastCall, time.Hour, "401 401"},
		{"all there, as long as may be", head + body(256<<10) + lastCall, time.Hour, "401 401"},
		{"a byte too long", head + body(256<<10+1) + lastCall, time.Hour, "401"},
		{"too long, and not there", head + "Content-Length: 10000000\r\n\r\n", time.Hour, "401"},
		{"not there", head + "Content-Length: 10\r\n\r\n", 20 * time.Millisecond, "401"},
		{"half there", head + "Content-Length: 10\r\n\r\nabc", 20 * time.Millisecond, "401"},
		{"waiting to be told to go on", head + "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n", time.Hour, "401"},
		{"in chunks", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" + lastCall, time.Hour, "401"},
		{"in chunks without an end", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 20 * time.Millisecond, "401"},
		{"in chunks, too long", head + "Transfer-Encoding: chunked\r\n\r\n40001\r\n" + strings.Repeat("x", 256<<10+1) + "\r\n", time.Hour, "401"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHouse(t, func(c *verifier.Config) { c.BodyTimeout = row.timeout })
			var statuses []string
			for _, a := range h.talk(row.bytes) {
				statuses = append(statuses, fmt.Sprint(a.status))
			}
			if got := strings.Join(statuses, " "); got != row.statuses {
				t.Errorf("%.120q = %s, want %s", row.bytes, got, row.statuses)
			}
		})
	}
}
