package usage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"
)

// Bounds of a batch on its way.
const (
	MaxBytes  = 8 << 20
	maxText   = 512 // Bytes of a name.
	maxNumber = 1 << 53
	maxAge    = 62 * 24 * time.Hour
	maxAhead  = time.Hour
)

// ErrBatch means that a batch is out of bounds.
var ErrBatch = errors.New("the batch is out of bounds")

// ReadBatch reads what a verifier sends, strictly, and holds it to the bounds at
// now. Errors match [ErrBatch].
func ReadBatch(from io.Reader, now time.Time) (Batch, error) {
	var b Batch
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return Batch{}, fmt.Errorf("%w: %w", ErrBatch, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Batch{}, fmt.Errorf("%w: something follows it", ErrBatch)
	}
	if !isText(b.Holder) || b.Holder == "" || b.Seq <= 0 || b.Seq > math.MaxInt64/2 || !isNumber(b.Lost) || len(b.Rows) > MaxBatch {
		return Batch{}, fmt.Errorf("%w: its holder, number or length", ErrBatch)
	}
	for i := range b.Rows {
		if !b.Rows[i].good(now) {
			return Batch{}, fmt.Errorf("%w: the row %d", ErrBatch, i)
		}
	}
	return b, nil
}

func (r *Row) good(now time.Time) bool {
	_, offset := r.Hour.Zone()
	return r.Key != "" && isText(r.Key) && isText(r.Identity) && isText(r.Model) && isText(r.Team) && isText(r.Grant) &&
		isNumber(r.Requests) && isNumber(r.Input) && isNumber(r.Output) && isNumber(r.Cached) && isNumber(r.Unreported) &&
		offset == 0 && r.Hour.Equal(r.Hour.Truncate(time.Hour)) && now.Sub(r.Hour) < maxAge && r.Hour.Sub(now) < maxAhead
}

func isText(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !bytes.ContainsRune([]byte(s), 0)
}

func isNumber(n int64) bool { return 0 <= n && n <= maxNumber }

// Client takes batches to an issuer.
type Client struct {
	// URL is the issuer's /usage.
	URL string
	// KeyID and Key are a machine key that is for verifiers.
	KeyID, Key string
}

var client = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Send is the Send of a [SpoolConfig].
func (c *Client) Send(ctx context.Context, b Batch) error {
	body, err := json.Marshal(b)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL is bad")
	}
	r.Header.Set("Content-Type", "application/json")
	// RFC 6749, section 2.3.1 has both form-encoded first.
	r.SetBasicAuth(url.QueryEscape(c.KeyID), url.QueryEscape(c.Key))
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("the issuer answers %d", res.StatusCode)
	}
	return nil
}
