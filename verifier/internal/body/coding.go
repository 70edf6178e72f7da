package body

import (
	"bufio"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// Bounds of coded bodies, beside those that all bodies have.
const (
	MaxRatio  = 100     // Decoded bytes for each encoded one, …
	FreeRatio = 1 << 20 // … beyond these.
	MaxWindow = 8 << 20 // How far a decoder looks back, in bytes: what RFC 9659 sets for zstd, also for br.
)

// A coding is a content coding (RFC 9110, section 8.4.1) with its spare decoders.
type coding struct {
	open  func() *decoder
	spare sync.Pool
}

// codings are those that we decode, by their names in lower case.
var codings = map[string]*coding{
	"identity": nil,
	"gzip":     {open: openGzip},
	"deflate":  {open: openDeflate},
	"br":       {open: openBrotli},
	"zstd":     {open: openZstd},
}

// codingOf returns the one coding of a body, nil for none. Of several, servers
// undo some, or none.
func codingOf(header []string) (*coding, error) {
	if len(header) == 0 {
		return nil, nil
	}
	c, known := codings[strings.ToLower(header[0])]
	if !known || len(header) > 1 {
		return nil, refusal.ErrContentEncoding
	}
	return c, nil
}

// start returns a decoder of s. Give it back with done.
func (c *coding) start(s *Source) (*decoder, error) {
	d, spare := c.spare.Get().(*decoder)
	if !spare {
		d = c.open()
		d.in = bufio.NewReader(nil)
	}
	d.source, d.decoded, d.ended = s, 0, false
	d.in.Reset(arriving{s})
	if err := d.restart(d.in); err != nil {
		return nil, undecodable(err)
	}
	return d, nil
}

// done keeps a decoder for the next body, unless it broke off.
func (c *coding) done(d *decoder) {
	if d.ended {
		d.source = nil
		d.in.Reset(nil)
		c.spare.Put(d)
	}
}

// A decoder reads one encoded stream, within the bounds, and makes sure that
// nothing stands behind it.
type decoder struct {
	source  *Source
	decoded int64
	ended   bool
	in      *bufio.Reader // Has ReadByte, so that nobody reads past the end of the stream unasked.
	out     io.Reader
	restart func(*bufio.Reader) error
}

var errBehind = errors.New("something follows the encoded stream")

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.out.Read(p)
	d.decoded += int64(n)
	if d.decoded > d.source.Max || d.decoded > FreeRatio+MaxRatio*d.source.n {
		return 0, refusal.ErrTooLarge
	}
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		return 0, undecodable(err)
	}
	// A second gzip member, too: some servers would read it, others not.
	if _, err := d.in.ReadByte(); err == nil {
		return 0, undecodable(errBehind)
	}
	d.ended = true
	return n, io.EOF
}

func undecodable(err error) error { return &refusal.Denial{Is: refusal.ErrDecoding, Cause: err} }

func openGzip() *decoder {
	z := new(gzip.Reader)
	return &decoder{out: z, restart: func(in *bufio.Reader) error {
		err := z.Reset(in)
		z.Multistream(false)
		return err
	}}
}

// openDeflate decodes zlib's format, which is what the name stands for. Bare
// deflate, which some send, has no checksum.
func openDeflate() *decoder {
	d := &decoder{}
	d.restart = func(in *bufio.Reader) (err error) {
		if z, ok := d.out.(zlib.Resetter); ok {
			return z.Reset(in, nil)
		}
		z, err := zlib.NewReader(in)
		if err == nil {
			d.out = z
		}
		return err
	}
	return d
}

func openBrotli() *decoder {
	z := brotli.NewReader(nil)
	return &decoder{out: z, restart: func(in *bufio.Reader) error {
		// The first bits are the window's size; four ones are the largest, 16 MiB
		// (RFC 7932, section 9.1).
		if first, err := in.Peek(1); err == nil && first[0]&0xF == 0xF {
			return errors.New("the window is too large")
		}
		return z.Reset(in)
	}}
}

// openZstd decodes several frames as one stream, as RFC 8878 (section 3) says.
func openZstd() *decoder {
	// One block at a time needs no goroutine, so that a decoder can be forgotten.
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxWindow))
	if err != nil {
		panic(err) // The options are constant.
	}
	return &decoder{out: z, restart: func(in *bufio.Reader) error { return z.Reset(in) }}
}
