package jwks

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Handler publishes the document that src returns as of each request, for
// caches to keep up to maxAge. It answers GET and HEAD, and 304 to whoever has
// the document already.
//
// Each answer has a max-age of its own, between 75 % and 100 % of maxAge, as
// random, which returns numbers of [0, 1) and is safe for concurrent use, will
// have it: caches filled in one moment do not all come back in one. Nil means
// [rand.Float64].
//
// What [Parse] would refuse on the far side is not published but answered with
// 500 and the reason, which is safe to show: above all a document that, by
// whatever mistake, holds a private key.
func Handler(src func() []byte, maxAge time.Duration, random func() float64) http.Handler {
	if random == nil {
		random = rand.Float64
	}
	seconds := int64(maxAge / time.Second)
	cacheControl := func() string {
		off := int64(random() * float64(seconds/4+1))
		return "public, max-age=" + strconv.FormatInt(seconds-off, 10)
	}
	var last atomic.Pointer[published]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "The key set is to be read.", http.StatusMethodNotAllowed)
			return
		}
		doc := src()
		p := last.Load()
		if p == nil || !bytes.Equal(p.doc, doc) {
			var err error
			if p, err = publish(doc); err != nil {
				w.Header().Set("Cache-Control", "no-store")
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			last.Store(p)
		}
		w.Header().Set("Content-Type", "application/jwk-set+json") // RFC 7517, section 8.5.2.
		w.Header().Set("Cache-Control", cacheControl())
		w.Header().Set("ETag", p.etag)
		// ServeContent knows HEAD and If-None-Match.
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.doc))
	})
}

// published is a document that was found fit.
type published struct {
	doc  []byte
	etag string
}

func publish(doc []byte) (*published, error) {
	if _, err := Parse(doc); err != nil {
		return nil, fmt.Errorf("publishing the key set: %w", err)
	}
	digest := sha256.Sum256(doc)
	return &published{bytes.Clone(doc), `"` + base64.RawURLEncoding.EncodeToString(digest[:]) + `"`}, nil
}
