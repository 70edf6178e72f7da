package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
)

// call is one request of the walk. It is sent as it stands and shown as the curl
// line that repeats it; the two are made of the same words. Words may hold $NAME
// of what an earlier call yielded.
type call struct {
	url    string
	user   string      // "name:password" for HTTP Basic.
	login  bool        // Walk through redirects and cookies as a browser does.
	bearer string      // For Authorization.
	form   [][2]string // A form to POST, or
	json   string      // a JSON document to POST.
	stream bool        // Show it as it comes.
	into   string      // The name to keep the result under, and
	member string      // the member of the JSON answer to keep; empty: all of it.
}

// vars are the results of calls by name.
type vars map[string]string

func (v vars) expand(s string) string {
	return os.Expand(s, func(name string) string { return v[name] })
}

// line is the shell's way to do the same.
func (c call) line() string {
	words := []string{"curl -s"}
	if c.stream {
		words[0] += "N"
	}
	if c.login {
		words[0] += "L -b '' --location-trusted"
	}
	words = append(words, c.url)
	if c.user != "" {
		words = append(words, "-u "+quote(c.user))
	}
	if c.bearer != "" {
		words = append(words, "-H "+quote("Authorization: Bearer "+c.bearer))
	}
	for _, field := range c.form {
		words = append(words, "-d "+quote(field[0]+"="+field[1]))
	}
	if c.json != "" {
		words = append(words, "--json "+quote(c.json))
	}
	line := strings.Join(words, " ")
	if c.member != "" {
		line += " | jq -r ." + c.member
	}
	if c.into != "" {
		line = c.into + "=$(" + line + ")"
	}
	return line
}

// quote writes a word for the shell: as it is where that is safe, with $NAME
// working otherwise only if there is one.
func quote(word string) string {
	switch {
	case !strings.ContainsAny(word, " \"'{}[]$&;|*?"):
		return word
	case strings.Contains(word, "$"):
		return `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`
	}
	return "'" + word + "'"
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	chunks int
}

// do sends the call and keeps what it yields.
func (c call) do(ctx context.Context, v vars, each func(chunk []byte)) (answer, error) {
	req, err := c.request(ctx, v)
	if err != nil {
		return answer{}, err
	}
	res, err := c.client(req).Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	a := answer{status: res.StatusCode, header: res.Header}
	buf := make([]byte, 32<<10)
	for err == nil {
		var n int
		if n, err = res.Body.Read(buf); n > 0 {
			a.chunks++
			a.body = append(a.body, buf[:n]...)
			if each != nil {
				each(buf[:n])
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return a, err
	}
	if c.into == "" {
		return a, nil
	}
	v[c.into] = strings.TrimSpace(string(a.body))
	if c.member != "" {
		var doc map[string]any
		if err := json.Unmarshal(a.body, &doc); err != nil {
			return a, err
		}
		v[c.into], _ = doc[c.member].(string)
	}
	if v[c.into] == "" || a.status >= 300 {
		return a, fmt.Errorf("%s: got %d: %s", c.url, a.status, a.body)
	}
	return a, nil
}

func (c call) request(ctx context.Context, v vars) (*http.Request, error) {
	method, body, media := http.MethodGet, "", ""
	switch {
	case c.json != "":
		method, body, media = http.MethodPost, c.json, "application/json"
	case c.form != nil:
		form := url.Values{}
		for _, field := range c.form {
			form.Set(field[0], v.expand(field[1]))
		}
		method, body, media = http.MethodPost, form.Encode(), "application/x-www-form-urlencoded"
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+v.expand(c.bearer))
	}
	if name, secret, ok := strings.Cut(v.expand(c.user), ":"); ok {
		req.SetBasicAuth(name, secret)
	}
	return req, nil
}

// client follows redirects only for a login, and then, like curl's
// --location-trusted, with the credential.
func (c call) client(first *http.Request) *http.Client {
	if !c.login {
		return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	jar, _ := cookiejar.New(nil) // It never fails.
	return &http.Client{Jar: jar, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		req.Header.Set("Authorization", first.Header.Get("Authorization")) //nolint:gosec // All of it is this process.
		return nil
	}}
}
