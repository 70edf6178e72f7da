package body_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// got is a part as a server sees it.
type got struct{ Name, Filename, Type, Text string }

func field(name, text string) got { return got{Name: name, Text: text} }

// served reads a form as Go's servers do.
func served(t testing.TB, c *body.Content) (parts []got) {
	t.Helper()
	media, params, err := mime.ParseMediaType(c.Type)
	if err != nil || media != "multipart/form-data" {
		t.Fatalf("media type %q: %v", c.Type, err)
	}
	in := multipart.NewReader(bytes.NewReader(readAll(t, c)), params["boundary"])
	for {
		p, err := in.NextRawPart()
		if err == io.EOF { //nolint:errorlint // A reader's end is io.EOF itself.
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		for name := range p.Header {
			if name != "Content-Disposition" && (name != "Content-Type" || p.FileName() == "") {
				t.Errorf("a part has the header %s", name)
			}
		}
		parts = append(parts, got{p.FormName(), p.FileName(), p.Header.Get("Content-Type"), string(text)})
	}
}

// withHeader is a form whose first part has that header.
func withHeader(line string) string {
	return "--B\r\n" + line + "\r\n\r\nx\r\n" + formOf("model", "small")
}

func TestForms(t *testing.T) {
	r := forms(t)
	for _, row := range []struct {
		name, media, form string
		want              []got
	}{
		{"fields", "", formOf("model", "small", "prompt", "hi\r\nthere", "n", "1", "stream", "true", "temperature", "0.50"), []got{
			field("model", "small"), field("prompt", "hi\r\nthere"), field("n", "1"), field("stream", "true"), field("temperature", "0.50"),
		}},
		{"a list of fields", "", formOf("include[]", "a", "model", "small", "include[]", "b", "x", ""), []got{
			field("include[]", "a"), field("model", "small"), field("include[]", "b"), field("x", ""),
		}},
		{"no model", "", formOf("prompt", "hi"), []got{field("prompt", "hi")}},
		{"a quoted boundary", `Multipart/Form-Data; Boundary="a b"; charset=UTF-8`, "--a b\r\nContent-Disposition: form-data; name=model\r\n\r\nsmall\r\n--a b--", []got{field("model", "small")}},
		{
			"a field of a text type", "", withHeader("content-type: text/plain; charset=UTF-8\r\nCONTENT-DISPOSITION: Form-Data ; NAME=a\r\nContent-Length: 1"),
			[]got{field("a", "x"), field("model", "small")},
		},
		{"a transfer encoding that is none", "", withHeader("Content-Transfer-Encoding: 8BIT\r\nContent-Disposition: form-data; name=\"a\""), []got{field("a", "x"), field("model", "small")}},
		{
			"a file", "", withHeader("Content-Disposition: form-data; filename=\"Größe 1.MP3\"; name=\"file\"\r\nContent-Type: audio/webm;codecs=opus"),
			[]got{{"file", "Größe 1.MP3", "audio/webm", "x"}, field("model", "small")},
		},
		{"a file of no type", "", withHeader("Content-Disposition: form-data; name=image[]; filename=x"), []got{
			{"image[]", "x", "application/octet-stream", "x"}, field("model", "small"),
		}},
		{"almost the boundary", "", formOf("a", "--\r\n--\r\n-\r\n--A\r\n", "model", "small"), []got{field("a", "--\r\n--\r\n-\r\n--A\r\n"), field("model", "small")}},
	} {
		t.Run(row.name, func(t *testing.T) {
			media := row.media
			if media == "" {
				media = formType
			}
			s := source(r, []byte(row.form), "Content-Type", media)
			d, err := body.Read(s, r)
			if err != nil || !s.Ended() {
				t.Fatal(err, s.Ended())
			}
			defer d.Close()
			c, err := d.Write("", body.Bounds{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, served(t, &c)); diff != "" {
				t.Error(diff)
			}
			if again, _ := d.Write("", body.Bounds{}); again.Type == c.Type {
				t.Errorf("the boundary is no secret: %s", c.Type)
			}
		})
	}
}

func TestFormsRefused(t *testing.T) {
	r := forms(t)
	const cd = "Content-Disposition: form-data; "
	for _, row := range []struct {
		name, form string
		err        error
		detail     string
	}{
		{"nothing", "", refusal.ErrForm, "cut off"},
		{"no part", "--B--\r\n", refusal.ErrForm, "begin"},
		{"something before", "x\r\n" + formOf("model", "small"), refusal.ErrForm, "begin"},
		{"a line before", "\r\n" + formOf("model", "small"), refusal.ErrForm, "begin"},
		{"a blank behind the boundary", strings.Replace(formOf("model", "small"), "--B\r", "--B \r", 1), refusal.ErrForm, "begin"},
		{"something behind", formOf("model", "small") + "x", refusal.ErrForm, "follows"},
		{"something at once behind", strings.TrimSuffix(formOf("model", "small"), "\r\n") + "x", refusal.ErrForm, "follows"},
		{"a bare line feed behind", strings.TrimSuffix(formOf("model", "small"), "\r\n") + "\n", refusal.ErrForm, "follows"},
		{"a line behind", formOf("model", "small") + "\r\n", refusal.ErrForm, "follows"},
		{"another form behind", formOf("model", "small") + formOf("model", "large"), refusal.ErrForm, "follows"},
		{"cut off in a part", strings.TrimSuffix(formOf("model", "small"), "\r\n--B--\r\n"), refusal.ErrForm, "cut off"},
		{"cut off in the end", strings.TrimSuffix(formOf("model", "small"), "--\r\n"), refusal.ErrForm, "cut off"},
		{"bare line feeds", strings.ReplaceAll(formOf("model", "small"), "\r", ""), refusal.ErrForm, "not plain"},
		{"a boundary after a line feed", formOf("a", "x\n--B\n"+cd+"name=model\n\nlarge", "model", "small"), refusal.ErrForm, "within a part"},
		{"a boundary without a line", formOf("a", "text--B\r\n"+cd+"name=model\r\n\r\nlarge"), refusal.ErrForm, "within a part"},
		{"a boundary after a bare line feed", formOf("a", "text\n--B\r\n"+cd+"name=model\r\n\r\nlarge"), refusal.ErrForm, "within a part"},
		{"a boundary that begins alike", formOf("a", "x\r\n--BB\r\n", "model", "small"), refusal.ErrForm, "within a part"},
		{"a boundary and a blank", formOf("a", "x\r\n--B \r\n", "model", "small"), refusal.ErrForm, "within a part"},
		{"a boundary at once", "--B\r\n" + cd + "name=a\r\n\r\n--B\r\n" + cd + "name=model\r\n\r\nlarge\r\n--B--\r\n", refusal.ErrForm, "within a part"},

		{"no disposition", withHeader("Content-Type: text/plain"), refusal.ErrForm, "form-data"},
		{"no header", "--B\r\n\r\nx\r\n--B--\r\n", refusal.ErrForm, "form-data"},
		{"an attachment", withHeader(`Content-Disposition: attachment; name="a"`), refusal.ErrForm, "form-data"},
		{"no name", withHeader(`Content-Disposition: form-data`), refusal.ErrForm, "name"},
		{"an empty name", withHeader(cd + `name=""`), refusal.ErrForm, "name"},
		{"a name twice", withHeader(cd + `name="a"; name="model"`), refusal.ErrForm, "disposition"},
		{"a name in two cases", withHeader(cd + `name="a"; NAME="model"`), refusal.ErrForm, "disposition"},
		{"a filename twice", withHeader(cd + `name="a"; filename="a"; filename="b"`), refusal.ErrForm, "disposition"},
		{"an encoded name", withHeader(cd + `name="a"; name*=utf-8''model`), refusal.ErrForm, "disposition"},
		{"an encoded filename", withHeader(cd + `name="a"; filename="a"; filename*=utf-8''b`), refusal.ErrForm, "disposition"},
		{"a name in pieces", withHeader(cd + `name*0="mo"; name*1="del"`), refusal.ErrForm, "disposition"},
		{"an escape in a name", withHeader(cd + `name="mod\el"`), refusal.ErrForm, "disposition"},
		{"a quote in a name", withHeader(cd + `name="mod\"el"`), refusal.ErrForm, "disposition"},
		{"a percent sign in a name", withHeader(cd + `name="mod%65l"`), refusal.ErrForm, "name"},
		{"a name that is not ASCII", withHeader(cd + `name="größe"`), refusal.ErrForm, "name"},
		{"a blank in a name", withHeader(cd + `name="model "`), refusal.ErrForm, "name"},
		{"a long name", withHeader(cd + `name="` + strings.Repeat("a", body.MaxName+1) + `"`), refusal.ErrForm, "name"},
		{"something behind a name", withHeader(cd + `name="a"b`), refusal.ErrForm, "disposition"},
		{"a quote that does not end", withHeader(cd + `name="a`), refusal.ErrForm, "disposition"},
		{"a semicolon behind", withHeader(cd + `name="a";`), refusal.ErrForm, "disposition"},
		{"a comma for a semicolon", withHeader(cd + `name=a, filename=b`), refusal.ErrForm, "disposition"},
		{"another parameter", withHeader(cd + `name="a"; size=1`), refusal.ErrForm, "disposition"},
		{"an empty filename", withHeader(cd + `name="a"; filename=""`), refusal.ErrForm, "file's name"},
		{"a path", withHeader(cd + `name="a"; filename="/etc/passwd"`), refusal.ErrForm, "file's name"},
		{"a path up", withHeader(cd + `name="a"; filename="..`), refusal.ErrForm, "disposition"},
		{"only up", withHeader(cd + `name="a"; filename=".."`), refusal.ErrForm, "file's name"},
		{"a path of Windows", withHeader(cd + `name="a"; filename=C:x\y`), refusal.ErrForm, "disposition"},
		{"a long filename", withHeader(cd + `name="a"; filename="` + strings.Repeat("a", body.MaxFilename+1) + `"`), refusal.ErrForm, "file's name"},
		{"NUL in a filename", withHeader(cd + "name=\"a\"; filename=\"a\x00b\""), refusal.ErrForm, "not plain"},
		{"CR in a filename", withHeader(cd + "name=\"a\"; filename=\"a\rb\""), refusal.ErrForm, "not plain"},
		{"DEL in a filename", withHeader(cd + "name=\"a\"; filename=\"a\x7fb\""), refusal.ErrForm, "not plain"},
		{"a filename that is not UTF-8", withHeader(cd + "name=\"a\"; filename=\"a\xffb\""), refusal.ErrForm, "not plain"},
		{"a tab", withHeader(cd + "name=\"a\";\tfilename=\"a\""), refusal.ErrForm, "not plain"},
		{"a folded header", withHeader("Content-Disposition: form-data;\r\n name=\"a\""), refusal.ErrForm, ""},
		{"a header twice", withHeader(cd + "name=a\r\ncontent-disposition: form-data; name=model"), refusal.ErrForm, "bad header"},
		{"a header without a colon", withHeader(cd + "name=a\r\nx"), refusal.ErrForm, "bad header"},
		{"a blank before the colon", withHeader("Content-Disposition : form-data; name=a"), refusal.ErrForm, ""},
		{"another header", withHeader(cd + "name=a\r\nX-Model: large"), refusal.ErrForm, "no meaning"},
		{"base64", withHeader(cd + "name=a\r\nContent-Transfer-Encoding: base64"), refusal.ErrForm, "for transfer"},
		{"quoted-printable", withHeader(cd + "name=a\r\nContent-Transfer-Encoding: quoted-printable"), refusal.ErrForm, "for transfer"},
		{"another charset", withHeader(cd + "name=a\r\nContent-Type: text/plain; charset=utf-7"), refusal.ErrForm, "plain text"},
		{"a field of another type", withHeader(cd + "name=a\r\nContent-Type: application/json"), refusal.ErrForm, "plain text"},
		{"a form within", withHeader(cd + "name=a; filename=a\r\nContent-Type: multipart/mixed; boundary=C"), refusal.ErrForm, "media type"},
		{"a message within", withHeader(cd + "name=a; filename=a\r\nContent-Type: message/rfc822"), refusal.ErrForm, "media type"},
		{"a media type of no type", withHeader(cd + "name=a; filename=a\r\nContent-Type: audio"), refusal.ErrForm, "media type"},
		{"a wrong length", withHeader(cd + "name=a\r\nContent-Length: 2"), refusal.ErrForm, "as long"},
		{"a long line", withHeader(cd + "name=a; filename=" + strings.Repeat("a", body.MaxHeader)), refusal.ErrForm, "too long"},
		{"a very long line", withHeader(cd + "name=a; filename=" + strings.Repeat("a", 1<<20)), refusal.ErrForm, "too long"},
		{"a field that is not UTF-8", formOf("a", "\xff", "model", "small"), refusal.ErrForm, "UTF-8"},
		{"a charset for the others", formOf("_Charset_", "utf-16", "model", "small"), refusal.ErrForm, "charset"},
		{"many parts", formOf(append(strings.Split(strings.Repeat("a,b,", body.MaxParts), ","), "model")...), refusal.ErrForm, "too many"},
		{"large fields", formOf("a", strings.Repeat("x", body.MaxFields), "model", "small"), refusal.ErrForm, "too large"},
		{"large fields together", formOf("a", strings.Repeat("x", body.MaxFields/2), "b", strings.Repeat("x", body.MaxFields/2), "model", "small"), refusal.ErrForm, "too large"},

		{"a model twice", formOf("model", "small", "model", "large"), refusal.ErrMember, "twice"},
		{"the same model twice", formOf("model", "small", "x", "1", "model", "small"), refusal.ErrMember, "twice"},
		{"a model in capitals", formOf("MODEL", "small"), refusal.ErrMemberName, ""},
		{"a model in capitals, too", formOf("model", "small", "Model", "large"), refusal.ErrMemberName, ""},
		{"a list of models", formOf("model", "small", "model[]", "large"), refusal.ErrMemberName, ""},
		{"an object of models", formOf("Model[x]", "large"), refusal.ErrMemberName, ""},
		{"a model as a file", withHeader(cd + "name=\"model\"; filename=\"a\""), refusal.ErrMember, "not a file"},
		{"a refused name", formOf("model", "small", "fallbacks", "large"), refusal.ErrMember, "one model"},
		{"a refused name of null", formOf("model", "small", "fallbacks", "null"), refusal.ErrMember, "one model"},
		{"a count in words", formOf("model", "small", "n", "one"), refusal.ErrMember, "whole number"},
		{"a count with a blank", formOf("model", "small", "n", " 1"), refusal.ErrMember, "whole number"},
		{"a count and more", formOf("model", "small", "n", "1,2"), refusal.ErrMember, "whole number"},
		{"a count with a sign", formOf("model", "small", "n", "+1"), refusal.ErrMember, "whole number"},
		{"a count in hexadecimal", formOf("model", "small", "n", "0x10"), refusal.ErrMember, "whole number"},
		{"a count in groups", formOf("model", "small", "n", "1_000"), refusal.ErrMember, "whole number"},
		{"a count with an exponent", formOf("model", "small", "n", "1e3"), refusal.ErrMember, "whole number"},
		{"a count of other digits", formOf("model", "small", "n", "１０"), refusal.ErrMember, "whole number"},
		{"a count of null", formOf("model", "small", "n", "null"), refusal.ErrMember, "whole number"},
		{"an empty count", formOf("model", "small", "n", ""), refusal.ErrMember, "whole number"},
		{"a flag of Python's", formOf("model", "small", "stream", "True"), refusal.ErrMember, "true or false"},
		{"a flag of a number", formOf("model", "small", "stream", "1"), refusal.ErrMember, "true or false"},
		{"a list", formOf("model", "small", "tools", "[]"), refusal.ErrMember, "array"},
		{"an object", formOf("model", "small", "stream_options", "{}"), refusal.ErrMember, "object"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := written(t, source(r, []byte(row.form), "Content-Type", formType), r)
			if err == nil {
				t.Fatalf("taken as %.200q", got)
			}
			refused(t, err, row.err, row.detail)
		})
	}
	for _, media := range []string{
		"", "multipart/form-data", "multipart/form-data; boundary=", `multipart/form-data; boundary=""`, "multipart/mixed; boundary=B", "application/json",
		"multipart/form-data; boundary=B; boundary=C", "multipart/form-data; boundary*=utf-8''B", "multipart/form-data; boundary*0=B", `multipart/form-data; boundary="\B"`,
		`multipart/form-data; boundary="B "`, `multipart/form-data; boundary="B*"`, "multipart/form-data; boundary=" + strings.Repeat("B", 71),
		"multipart/form-data; boundary=B; charset=utf-16", "multipart/form-data; boundary=B; x=y", `multipart/form-data; boundary="é"`, `multipart/form-data; boundary="B;"`,
	} {
		_, err := written(t, source(r, []byte(formOf("model", "small")), "Content-Type", media), r)
		refused(t, err, refusal.ErrFormType, "")
	}
	_, err := written(t, source(r, []byte(formOf("model", "small")), "Content-Type", formType, "Content-Type", formType), r)
	refused(t, err, refusal.ErrFormType, "")
	_, err = written(t, source(chat(t), []byte(formOf("model", "small")), "Content-Type", formType), chat(t))
	refused(t, err, refusal.ErrContentType, "")
}

func TestFormBounds(t *testing.T) {
	r := forms(t)
	between := func(name string, low, high float64) map[string]token.Range {
		return map[string]token.Range{name: {Min: low, Max: high}}
	}
	for _, row := range []struct {
		name   string
		fields []string
		bounds body.Bounds
		want   []got // Nil: refused.
	}{
		{"within", []string{"max_tokens", "5"}, body.Bounds{Params: token.Params{Bounds: between("max_tokens", 0, 5)}}, []got{field("max_tokens", "5")}},
		{"above", []string{"max_tokens", "6"}, body.Bounds{Params: token.Params{Bounds: between("max_tokens", 0, 5)}}, nil},
		{"above, to be clamped", []string{"max_tokens", "6"}, body.Bounds{Params: token.Params{Clamp: true, Bounds: between("max_tokens", 0, 5)}}, []got{field("max_tokens", "5")}},
		{"not given", nil, body.Bounds{Params: token.Params{Bounds: between("max_tokens", 0, 5)}}, []got{field("max_tokens", "5")}},
		{
			"not given, of a server's name", nil,
			body.Bounds{Cap: "max_completion_tokens", Params: token.Params{Bounds: between("max_tokens", 0, 5)}},
			[]got{field("max_completion_tokens", "5")},
		},
		{"streaming not allowed", []string{"stream", "true"}, body.Bounds{Params: token.Params{Bounds: between("stream", 0, 0)}}, nil},
		{"streaming clamped", []string{"stream", "true"}, body.Bounds{Params: token.Params{Clamp: true, Bounds: between("stream", 0, 0)}}, []got{field("stream", "false")}},
		{"no whole number within", nil, body.Bounds{Params: token.Params{Clamp: true, Bounds: between("top_logprobs", 0.2, 0.8)}}, nil},
		{"no count within", []string{"n", "1"}, body.Bounds{Params: token.Params{Clamp: true, Bounds: between("n", 0.2, 0.8)}}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			form := formOf(append([]string{"model", "small"}, row.fields...)...)
			d, err := body.Read(source(r, []byte(form), "Content-Type", formType), r)
			if err != nil {
				t.Fatal(err)
			}
			c, err := d.Write("Small-1", row.bounds)
			if row.want == nil {
				refused(t, err, refusal.ErrParam, "")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(append([]got{field("model", "Small-1")}, row.want...), served(t, &c)); diff != "" {
				t.Error(diff)
			}
		})
	}
	d, err := body.Read(source(r, []byte(formOf("stream", "true", "model", "a/b")), "Content-Type", formType), r)
	if stream, given := d.Flag("stream"); err != nil || d.Model != "a/b" || !stream || !given {
		t.Errorf("model %q, stream %v, %v: %v", d.Model, stream, given, err)
	}
	if _, given := d.Flag("background"); given {
		t.Error("a field is given that is not there")
	}
}

// TestLargeForm: what does not stay in memory goes to a file that nobody sees,
// can be read by several at once, and is gone in the end.
func TestLargeForm(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	r := forms(t)
	head := "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n"
	audio := make([]byte, maxBody+3)
	for i := range audio {
		audio[i] = byte(i * i >> 8)
	}
	form := head + string(audio) + "\r\n" + formOf("model", "small")
	empty := func() {
		t.Helper()
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("in the folder are %v: %v", names, err)
		}
	}
	d, err := body.Read(source(r, []byte(form), "Content-Type", formType), r)
	if err != nil || d.Model != "small" {
		t.Fatal(d.Model, err)
	}
	empty()
	c, err := d.Write("", body.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			parts := served(t, &c)
			if len(parts) != 2 || sha256.Sum256([]byte(parts[0].Text)) != sha256.Sum256(audio) || parts[1] != field("model", "small") {
				t.Errorf("%d parts", len(parts))
			}
		})
	}
	wg.Wait()
	reader := c.Open()
	d.Close()
	d.Close()
	if _, err := io.Copy(io.Discard, reader); err == nil {
		t.Error("what was given back can still be read")
	}
	empty()

	// A form that is refused leaves nothing behind either.
	open := openFiles(t)
	if _, err := body.Read(source(r, []byte(form+"x"), "Content-Type", formType), r); !errors.Is(err, refusal.ErrForm) {
		t.Error(err)
	}
	if after := openFiles(t); after > open {
		t.Errorf("%d files are open, before %d", after, open)
	}

	// All bodies together take no more than there is for them.
	disk := &body.Disk{Max: int64(len(audio))}
	for _, room := range []bool{true, false, true} {
		s := source(r, []byte(form), "Content-Type", formType)
		s.Disk = disk
		second, err := body.Read(s, r)
		if !room {
			refused(t, err, refusal.ErrNoRoom, "")
			d.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		d = second
	}
	d.Close()

	// Where there is no folder, that is our failure.
	t.Setenv("TMPDIR", dir+"/none")
	_, err = body.Read(source(r, []byte(form), "Content-Type", formType), r)
	if got, _ := refusal.Of(err); got.Status != 500 {
		t.Errorf("without a folder: %d, %v", got.Status, err)
	}

	// Only routes for files take as much.
	t.Setenv("TMPDIR", dir)
	r.LargeBody = false
	s := source(r, []byte(form), "Content-Type", formType)
	if d, err = body.Read(s, r); err == nil {
		d.Close()
	}
	if tooLarge := (*http.MaxBytesError)(nil); !errors.As(s.Failed(), &tooLarge) {
		t.Error("a large form is taken where there are no files")
	}
	jsonRoute := chat(t)
	jsonRoute.LargeBody = true
	if got := (body.Limits{Body: 1, Large: 2}).Of(jsonRoute); got != 1 {
		t.Errorf("JSON, which is held in memory, may have %d bytes", got)
	}
}

// openFiles counts what the process has open, where the system can tell.
func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return len(files)
}
