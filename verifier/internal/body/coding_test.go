package body_test

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

func TestCodings(t *testing.T) {
	r := chat(t)
	for _, coding := range codings {
		for _, name := range []string{coding, strings.ToUpper(coding)} {
			got, err := written(t, source(r, encode(t, coding, chatBody), "Content-Encoding", name), r)
			if err != nil || !bytes.Equal(got, chatBody) {
				t.Errorf("%s = %.40q, %v", name, got, err)
			}
		}
		form := formOf("model", "small")
		if _, err := written(t, source(forms(t), encode(t, coding, []byte(form)), "Content-Encoding", coding, "Content-Type", formType), forms(t)); err != nil {
			t.Errorf("a form in %s: %v", coding, err)
		}
	}
	for _, header := range [][]string{nil, {"Content-Encoding", "identity"}, {"Content-Encoding", "Identity"}} {
		if got, err := written(t, source(r, chatBody, header...), r); err != nil || !bytes.Equal(got, chatBody) {
			t.Errorf("%q = %.40q, %v", header, got, err)
		}
	}
	for _, values := range [][]string{
		{""},
		{"x-gzip"},
		{"compress"},
		{"gzip, gzip"},
		{"gzip,"},
		{"identity, gzip"},
		{"gzip", "gzip"},
		{"identity", "identity"},
		{"identity", "gzip"},
		{" gzip"},
		{"gzip;q=1"},
		{"*"},
		{"gzıp"},
		{"g\u200bzip"},
		{"dcb"},
		{"aes128gcm"},
	} {
		s := source(r, encode(t, "gzip", chatBody))
		s.Header["Content-Encoding"] = values
		_, err := written(t, s, r)
		refused(t, err, refusal.ErrContentEncoding, "")
	}
}

// TestBrokenCodings: a stream is whole, and nothing else is there.
func TestBrokenCodings(t *testing.T) {
	r := chat(t)
	doc := []byte(`{"model":"small","user":"` + strings.Repeat("Ada, ", 40) + `"}`)
	undecodable := func(coding, what string, encoded []byte) {
		t.Helper()
		if got, err := written(t, source(r, encoded, "Content-Encoding", coding), r); err == nil {
			t.Errorf("%s, %s: taken as %.60q", coding, what, got)
		} else {
			refused(t, err, refusal.ErrDecoding, "")
		}
	}
	for _, coding := range codings {
		whole := encode(t, coding, doc)
		undecodable(coding, "as it is", doc)
		for n := range len(whole) {
			if coding == "zstd" && n == 0 {
				continue // No frame at all is nothing; and nothing is no JSON.
			}
			undecodable(coding, "cut off", whole[:n])
		}
		undecodable(coding, "a byte behind", append(slices.Clone(whole), 0))
		undecodable(coding, "a text behind", append(slices.Clone(whole), doc...))
		if coding != "zstd" {
			undecodable(coding, "twice", slices.Concat(whole, encode(t, coding, []byte("  "))))
		}
	}
	for _, coding := range []string{"gzip", "deflate", "zstd"} { // Brotli has no checksum.
		whole := encode(t, coding, doc)
		whole[len(whole)-2] ^= 1
		undecodable(coding, "a wrong checksum", whole)
	}

	// Frames of zstd are one stream to all that read it.
	half := len(doc) / 2
	two := slices.Concat(encode(t, "zstd", doc[:half]), encode(t, "zstd", doc[half:]))
	if got, err := written(t, source(r, two, "Content-Encoding", "zstd"), r); err != nil || !bytes.Equal(got, doc) {
		t.Errorf("two frames = %q, %v", got, err)
	}

	var bare bytes.Buffer
	w, _ := flate.NewWriter(&bare, 9)
	_, _ = w.Write(doc)
	_ = w.Close()
	undecodable("deflate", "without zlib's header", bare.Bytes())
	var dict bytes.Buffer
	z, _ := zlib.NewWriterLevelDict(&dict, 9, []byte("model"))
	_, _ = z.Write(doc)
	_ = z.Close()
	undecodable("deflate", "with a dictionary", dict.Bytes())
}

func TestCodedBounds(t *testing.T) {
	r := chat(t)
	padded := func(n int) []byte {
		return append(make([]byte, 0, n), `{"model":"small"}`+strings.Repeat(" ", n-17)...)
	}
	for _, coding := range codings {
		tight := encode(t, coding, padded(body.FreeRatio))
		if _, err := written(t, source(r, tight, "Content-Encoding", coding), r); err != nil {
			t.Errorf("%s of %d to %d bytes: %v", coding, body.FreeRatio, len(tight), err)
		}
		bomb := encode(t, coding, padded(9<<20))
		if len(bomb)*body.MaxRatio+body.FreeRatio > 9<<20 {
			t.Logf("%s makes %d bytes of 9 MiB, within the ratio", coding, len(bomb))
			continue
		}
		_, err := written(t, source(r, bomb, "Content-Encoding", coding), r)
		refused(t, err, refusal.ErrTooLarge, "")
	}
	// Within the ratio, there is still the bound of all bodies.
	for _, coding := range codings {
		s := source(r, encode(t, coding, chatBody), "Content-Encoding", coding)
		s.Max = int64(len(chatBody))
		if _, err := written(t, s, r); err != nil {
			t.Errorf("%s of just the size: %v", coding, err)
		}
		s = source(r, encode(t, coding, chatBody), "Content-Encoding", coding)
		s.Max = int64(len(chatBody)) - 1
		_, err := written(t, s, r)
		refused(t, err, refusal.ErrTooLarge, "")
	}
	s := source(r, append(encode(t, "gzip", chatBody), 0))
	s.Header.Set("Content-Encoding", "gzip")
	s.Length = maxBody + 1
	_, err := written(t, s, r)
	refused(t, err, refusal.ErrTooLarge, "")
}

func TestWindows(t *testing.T) {
	r := chat(t)
	for _, row := range []struct {
		window int
		ok     bool
	}{{1 << 20, true}, {body.MaxWindow, true}, {2 * body.MaxWindow, false}} {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(row.window), zstd.WithSingleSegment(false), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		// In pieces, so that the encoder does not see how little there is.
		for _, c := range chatBody {
			_, _ = z.Write([]byte{c})
			_ = z.Flush()
		}
		_ = z.Close()
		if _, err := written(t, source(r, b.Bytes(), "Content-Encoding", "zstd"), r); (err == nil) != row.ok {
			t.Errorf("zstd with a window of %d: %v", row.window, err)
		}
	}
	for bits := 10; bits <= 24; bits++ {
		var b bytes.Buffer
		w := brotli.NewWriterOptions(&b, brotli.WriterOptions{Quality: 5, LGWin: bits})
		_, _ = w.Write(chatBody)
		_ = w.Close()
		if _, err := written(t, source(r, b.Bytes(), "Content-Encoding", "br"), r); (err == nil) != (1<<bits <= body.MaxWindow) {
			t.Errorf("br with a window of 2^%d: %v", bits, err)
		}
	}
}

// TestDecodersAreUsedAgain: whatever a decoder has read, the next body is read as
// if it was the first; and none leaves a goroutine behind.
func TestDecodersAreUsedAgain(t *testing.T) {
	r := chat(t)
	encoded := map[string][]byte{}
	for _, coding := range codings {
		encoded[coding] = encode(t, coding, chatBody)
	}
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				coding := codings[i%len(codings)]
				whole := encoded[coding]
				if _, err := written(t, source(r, whole[:len(whole)*(i%7)/7+1], "Content-Encoding", coding), r); err == nil {
					t.Errorf("a part of %s is taken", coding)
				}
				if got, err := written(t, source(r, whole, "Content-Encoding", coding), r); err != nil || !bytes.Equal(got, chatBody) {
					t.Errorf("%s = %.40q, %v", coding, got, err)
				}
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() { // Those of the test may take a moment.
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, before %d", runtime.NumGoroutine(), before)
		}
	}
}

// TestDecodersStartNothing: what decodes a body runs only while it is read.
func TestDecodersStartNothing(t *testing.T) {
	r := chat(t)
	for _, coding := range codings {
		before, during := runtime.NumGoroutine(), 0
		s := source(r, nil, "Content-Encoding", coding)
		s.Body = watched{iotest.OneByteReader(bytes.NewReader(encode(t, coding, chatBody))), &during}
		if _, err := written(t, s, r); err != nil || during > before {
			t.Errorf("%s: %d goroutines, before %d, %v", coding, during, before, err)
		}
	}
}

// watched sees how many goroutines there are while it is read.
type watched struct {
	io.Reader
	most *int
}

func (w watched) Read(p []byte) (int, error) {
	*w.most = max(*w.most, runtime.NumGoroutine())
	return w.Reader.Read(p)
}

// broken is a body that does not arrive.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrClosedPipe
	}
	return n, err
}

func TestBrokenSource(t *testing.T) {
	for _, coding := range append(slices.Clone(codings), "identity") {
		for _, r := range []bool{false, true} {
			route, doc, media := chat(t), chatBody, "application/json"
			if r {
				route, doc, media = forms(t), []byte(formOf("model", "small")), formType
			}
			if coding != "identity" {
				doc = encode(t, coding, doc)
			}
			s := source(route, nil, "Content-Encoding", coding, "Content-Type", media)
			s.Body = broken{bytes.NewReader(doc)}
			if d, err := body.Read(s, route); err == nil {
				d.Close()
			}
			if s.Ended() || s.Failed() != io.ErrClosedPipe { //nolint:errorlint // The very error.
				t.Errorf("%s, form %v: ended %v, failed by %v", coding, r, s.Ended(), s.Failed())
			}
		}
	}
}
