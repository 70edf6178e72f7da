package body

import (
	"bytes"
	"io"
)

// Content is a body for an upstream. It can be read as often as it takes, from
// several places at once, until the [Doc] that it was written from is closed.
// The zero value is none.
type Content struct {
	Type string // The media type, for Content-Type.

	text  []byte // All but the files, in one piece.
	files []file // Where they stand, in order.
	spool *spool // Where their bytes are.
	size  int64  // Of the files.
}

// A file stands in a body at a place of its text.
type file struct {
	place    int   // In the text.
	at, size int64 // In the spool.
}

const jsonType = "application/json"

// Len is how many bytes there are. Without any, there is no body.
func (c *Content) Len() int64 { return int64(len(c.text)) + c.size }

// Bytes are all of it where it holds no files.
func (c *Content) Bytes() []byte { return c.text }

// Open reads from the beginning.
func (c *Content) Open() io.ReadCloser {
	if len(c.files) == 0 {
		return io.NopCloser(bytes.NewReader(c.text))
	}
	var pieces []io.Reader
	from := 0
	for _, f := range c.files {
		pieces = append(pieces, bytes.NewReader(c.text[from:f.place]), c.spool.section(f.at, f.size))
		from = f.place
	}
	return io.NopCloser(io.MultiReader(append(pieces, bytes.NewReader(c.text[from:]))...))
}
