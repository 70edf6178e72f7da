package ring_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/hourpass/hourpass/jwks/ring"
)

const purpose = "jwks/ring v2"

// outer is what the storage holds.
type outer struct {
	Version int    `json:"version"`
	Sealed  []byte `json:"sealed"`
}

type object = map[string]any

// inner is what is sealed.
type inner struct {
	Serial  int      `json:"serial"`
	Keys    []object `json:"keys"`
	Tainted []object `json:"tainted,omitempty"`
}

// rewrite opens a ring, changes what is in it, and seals it again: what only
// who has the key-encryption key can do.
func rewrite(t *testing.T, data []byte, s ring.Sealer, change func(*inner)) []byte {
	t.Helper()
	var o outer
	var i inner
	if err := json.Unmarshal(data, &o); err != nil {
		t.Fatal(err)
	}
	plain, err := s.Open(purpose, o.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(plain, &i); err != nil {
		t.Fatal(err)
	}
	change(&i)
	if plain, err = json.Marshal(i); err != nil {
		t.Fatal(err)
	}
	if o.Sealed, err = s.Seal(purpose, plain); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(o); err != nil {
		t.Fatal(err)
	}
	return data
}

// halves are a key's two as the ring writes them.
func halves(t *testing.T, private any, public any) (pkcs8, pkix []byte) {
	t.Helper()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if pkix, err = x509.MarshalPKIXPublicKey(public); err != nil {
		t.Fatal(err)
	}
	return pkcs8, pkix
}

// Each row spoils one thing in a good ring of a retiring and an active key and
// a tainted one.
func TestOpenRefuses(t *testing.T) {
	c := newClock()
	m := &memory{}
	conf := ring.Config{Storage: m, Sealer: newSealer(t), Now: c.now}
	r := create(t, conf)
	rotate(t, r)
	later(t, c, lead+2*stale, r)
	taint(t, r, rotate(t, r).KID)
	rotate(t, r)
	later(t, c, lead+2*stale, r)
	if states(r) != "retiring retiring active" {
		t.Fatal(states(r))
	}
	good := m.data
	edit := func(change func(*inner)) []byte { return rewrite(t, good, conf.Sealer, change) }
	mixed, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	weak := weakRSA(t)
	of := func(private, public any, alg string) func(*inner) {
		return func(i *inner) {
			i.Keys[2]["private"], i.Keys[2]["public"] = halves(t, private, public)
			i.Keys[2]["kid"], i.Keys[2]["alg"] = thumbprint(t, public), alg
		}
	}
	const never = "2020-01-01T00:00:00Z"
	for _, tt := range []struct {
		name   string
		data   []byte
		sealer ring.Sealer
		ok     bool
	}{
		{"good", good, conf.Sealer, true},
		{"good, sealed anew", edit(func(*inner) {}), conf.Sealer, true},
		{"another good key", edit(of(mixed, &mixed.PublicKey, "ES256")), conf.Sealer, true},
		{"a good key of Ed25519", edit(of(ed, ed.Public(), "EdDSA")), conf.Sealer, true},
		{"another key-encryption key", good, newSealer(t), false},
		{"a key service that is down", good, broken{}, false},
		{"empty", nil, conf.Sealer, false},
		{"cut off", good[:len(good)/2], conf.Sealer, false},
		{"something follows", append(bytes.Clone(good), "{}"...), conf.Sealer, false},
		{"an unknown member", bytes.Replace(good, []byte(`"version"`), []byte(`"threshold": 2, "version"`), 1), conf.Sealer, false},
		{"a later version", bytes.Replace(good, []byte(`"version":2`), []byte(`"version":3`), 1), conf.Sealer, false},
		{"an earlier version", bytes.Replace(good, []byte(`"version":2`), []byte(`"version":1`), 1), conf.Sealer, false},
		{"keys of version 1 besides", bytes.Replace(good, []byte(`"version":2`), []byte(`"keys":[{}],"version":2`), 1), conf.Sealer, false},
		{"huge", append(bytes.Clone(good), strings.Repeat(" ", 1<<20)...), conf.Sealer, false},

		{"an unknown member within", edit(func(i *inner) { i.Keys[0]["threshold"] = 2 }), conf.Sealer, false},
		{"no keys", edit(func(i *inner) { i.Keys = nil }), conf.Sealer, false},
		{"a key twice", edit(func(i *inner) { i.Keys = slices.Insert(i.Keys, 0, i.Keys[0]) }), conf.Sealer, false},
		{"101 keys", edit(func(i *inner) {
			for range 98 {
				fresh, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				k := object{"retires": i.Keys[0]["retires"], "gone_at": i.Keys[0]["gone_at"], "alg": "ES256", "kid": thumbprint(t, &fresh.PublicKey)}
				k["private"], k["public"] = halves(t, fresh, &fresh.PublicKey)
				i.Keys = slices.Insert(i.Keys, 0, k)
			}
		}), conf.Sealer, false},
		{"a tainted key", edit(func(i *inner) { i.Tainted[0]["kid"] = i.Keys[0]["kid"] }), conf.Sealer, false},
		{"no successor to the first", edit(func(i *inner) { delete(i.Keys[0], "retires"); delete(i.Keys[0], "gone_at") }), conf.Sealer, false},
		{"never gone", edit(func(i *inner) { delete(i.Keys[0], "gone_at") }), conf.Sealer, false},
		{"gone before it retires", edit(func(i *inner) { i.Keys[0]["gone_at"] = never }), conf.Sealer, false},
		{"the last one retires", edit(func(i *inner) { i.Keys[2]["retires"] = never }), conf.Sealer, false},
		{"gone without retiring", edit(func(i *inner) { delete(i.Keys[0], "retires") }), conf.Sealer, false},
		{"the last one goes", edit(func(i *inner) { i.Keys[2]["gone_at"] = "2100-01-01T00:00:00Z" }), conf.Sealer, false},
		{"two sign at a time", edit(func(i *inner) { i.Keys[1]["active_from"] = never }), conf.Sealer, false},
		{"out of order", edit(func(i *inner) { slices.Reverse(i.Keys) }), conf.Sealer, false},
		{"another alg", edit(func(i *inner) { i.Keys[0]["alg"] = "EdDSA" }), conf.Sealer, false},
		{"no alg", edit(func(i *inner) { i.Keys[0]["alg"] = "" }), conf.Sealer, false},
		{"kids swapped", edit(func(i *inner) { i.Keys[0]["kid"], i.Keys[1]["kid"] = i.Keys[1]["kid"], i.Keys[0]["kid"] }), conf.Sealer, false},
		{"private halves swapped", edit(func(i *inner) {
			i.Keys[0]["private"], i.Keys[1]["private"] = i.Keys[1]["private"], i.Keys[0]["private"]
		}), conf.Sealer, false},
		{"no private half", edit(func(i *inner) { delete(i.Keys[0], "private") }), conf.Sealer, false},
		{"two private halves", edit(func(i *inner) { i.Keys[0]["handle"] = "h" }), conf.Sealer, false},
		{"a broken private half", edit(func(i *inner) { i.Keys[0]["private"] = "AAAA" }), conf.Sealer, false},
		{"no public half", edit(func(i *inner) { delete(i.Keys[0], "public") }), conf.Sealer, false},
		{"halves of two keys", edit(of(mixed, &p384.PublicKey, "ES256")), conf.Sealer, false},
		{"a P-384 key", edit(of(p384, &p384.PublicKey, "ES256")), conf.Sealer, false},
		{"an RSA key of 1024 bits", edit(of(weak, &weak.PublicKey, "RS256")), conf.Sealer, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conf := conf
			conf.Storage, conf.Sealer = &memory{data: tt.data, version: 1}, tt.sealer
			r, err := ring.Open(t.Context(), conf)
			if tt.ok != (err == nil) {
				t.Fatalf("Open = %v, want ok %v", err, tt.ok)
			}
			if err == nil {
				if err := verify(t, r.Document(), sign(t, r)); err != nil {
					t.Errorf("after Open: %v", err)
				}
				return
			}
			noPrivate(t, "the error", err.Error(), mixed, p384)
		})
	}
}

// Without the key-encryption key nothing in the storage can be changed, not a
// state, not a time: no bit of it.
func TestWholeRingIsAuthenticated(t *testing.T) {
	c := newClock()
	m := &memory{}
	conf := ring.Config{Storage: m, Sealer: newSealer(t), Now: c.now}
	r := create(t, conf)
	rotate(t, r)
	var o outer
	if err := json.Unmarshal(m.data, &o); err != nil {
		t.Fatal(err)
	}
	for _, text := range append(published(t, r.Document()), "active", "2026", "ES256") {
		if bytes.Contains(m.data, []byte(text)) {
			t.Errorf("%s stands outside the seal", text)
		}
	}
	for bit := range 8 * len(o.Sealed) {
		bad := outer{o.Version, bytes.Clone(o.Sealed)}
		bad.Sealed[bit/8] ^= 1 << (bit % 8)
		data, _ := json.Marshal(bad)
		conf.Storage = &memory{data: data, version: 1}
		if _, err := ring.Open(t.Context(), conf); err == nil {
			t.Fatalf("Open(bit %d flipped) succeeds", bit)
		}
	}
}

// fileV1 is a ring as version 1 wrote it; the last key is active.
func fileV1(t *testing.T, s ring.Sealer, created []time.Time, private ...any) object {
	t.Helper()
	var keys []object
	for i, p := range private {
		k, err := jwk.FromRaw(p)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := s.Seal("jwks/ring signing key", plain)
		if err != nil {
			t.Fatal(err)
		}
		public, err := k.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		var raw any
		if err := public.Raw(&raw); err != nil {
			t.Fatal(err)
		}
		state := "retiring"
		if i == len(private)-1 {
			state = "active"
		}
		keys = append(keys, object{"kid": thumbprint(t, raw), "alg": "ES256", "state": state, "created": created[i], "private": sealed})
	}
	return object{"version": 1, "keys": keys}
}

// A file of version 1 opens, signs, and is one of version 2 once it is changed.
func TestVersion1(t *testing.T) {
	s := newSealer(t)
	var private []any
	var kids []string
	for range 3 {
		k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		private, kids = append(private, k), append(kids, thumbprint(t, &k.PublicKey))
	}
	// The first signed until ten days ago, the second until half an hour ago.
	created := []time.Time{start.Add(-20 * 24 * time.Hour), start.Add(-10 * 24 * time.Hour), start.Add(-30 * time.Minute)}
	good := func() object { return fileV1(t, s, created, private...) }
	opened := func(f object) (*ring.Ring, ring.Config, *clock, error) {
		data, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		c := newClock()
		conf := ring.Config{Storage: &memory{data: data, version: 1}, Sealer: s, Now: c.now}
		r, err := ring.Open(t.Context(), conf)
		return r, conf, c, err
	}
	r, conf, c, err := opened(good())
	if err != nil {
		t.Fatal(err)
	}
	if got := published(t, r.Document()); !slices.Equal(got, kids[1:]) || states(r) != "retiring active" || signedBy(t, sign(t, r)) != kids[2] {
		t.Errorf("the document has %v, List = %s", got, states(r))
	}
	if k := r.List()[0]; !k.Retires.Equal(created[2]) || !k.GoneAt.Equal(created[2].Add(hold)) || !k.Created.Equal(created[1]) {
		t.Errorf("the retiring key is %+v", k)
	}
	rotate(t, r)
	data, _, _ := conf.Storage.Load(t.Context())
	if !bytes.HasPrefix(data, []byte(`{"version":2,"sealed":"`)) {
		t.Errorf("after a change the file is %.40s", data)
	}
	later(t, c, hold, open(t, conf), r)
	if got := published(t, r.Document()); slices.Contains(got, kids[1]) || !slices.Contains(got, kids[2]) {
		t.Errorf("an hour later the document has %v", got)
	}

	key := func(f object, i int) object { return f["keys"].([]object)[i] }
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	mixed := *private[0].(*ecdsa.PrivateKey)
	mixed.PublicKey = private[1].(*ecdsa.PrivateKey).PublicKey
	for name, spoil := range map[string]func(object) object{
		"no active key":    func(f object) object { key(f, 2)["state"] = "retiring"; return f },
		"two active keys":  func(f object) object { key(f, 1)["state"] = "active"; return f },
		"an unknown state": func(f object) object { key(f, 1)["state"] = "prepare"; return f },
		"another alg":      func(f object) object { key(f, 1)["alg"] = "none"; return f },
		"no time":          func(f object) object { delete(key(f, 1), "created"); return f },
		"another kid":      func(f object) object { key(f, 1)["kid"] = "2026-11"; return f },
		"private swapped":  func(f object) object { key(f, 1)["private"] = key(f, 2)["private"]; return f },
		"in the clear":     func(f object) object { key(f, 1)["private"] = "e30="; return f },
		"no keys":          func(f object) object { delete(f, "keys"); return f },
		"sealed besides":   func(f object) object { f["sealed"] = "AAAA"; return f },
		"a P-384 key":      func(object) object { return fileV1(t, s, created, p384) },
		"halves of two":    func(object) object { return fileV1(t, s, created, &mixed) },
		"for another purpose": func(f object) object {
			sealed, _ := s.Seal("session", []byte("{}"))
			key(f, 1)["private"] = sealed
			return f
		},
		"101 keys": func(f object) object {
			all := f["keys"].([]object)
			for range 98 {
				all = slices.Insert(all, 0, all[0])
			}
			f["keys"] = all
			return f
		},
	} {
		if _, _, _, err := opened(spoil(good())); err == nil {
			t.Errorf("Open(version 1, %s) succeeds", name)
		} else {
			noPrivate(t, "the error", err.Error(), private[0].(*ecdsa.PrivateKey), p384)
		}
	}
}

func weakRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func thumbprint(t *testing.T, public any) string {
	t.Helper()
	k, err := jwk.FromRaw(public)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// noPrivate looks for the private number of keys in every form it might have.
func noPrivate(t *testing.T, what, text string, keys ...*ecdsa.PrivateKey) {
	t.Helper()
	for _, k := range keys {
		d, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		n := new(big.Int).SetBytes(d)
		for _, form := range []string{
			base64.RawURLEncoding.EncodeToString(d), base64.StdEncoding.EncodeToString(d), fmt.Sprintf("%x", d), fmt.Sprintf("%X", d),
			n.String(), strings.Trim(fmt.Sprint([32]byte(d)), "[]"), strings.Trim(fmt.Sprint(n.Bits()), "[]"),
		} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows a private key as %q", what, form)
			}
		}
	}
}

// A sealer that lets the test see what is sealed.
type glass struct {
	ring.Sealer
	mu    sync.Mutex
	plain [][]byte
}

func (g *glass) Seal(purpose string, plain []byte) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.plain = append(g.plain, bytes.Clone(plain))
	return g.Sealer.Seal(purpose, plain)
}

// No way of printing a ring, no log and no storage shows a private key.
func TestRingShowsNoPrivateKey(t *testing.T) {
	var shown strings.Builder
	c, g, m := newClock(), &glass{Sealer: newSealer(t)}, &memory{}
	r := create(t, ring.Config{Storage: m, Sealer: g, Now: c.now, Log: slog.New(slog.NewTextHandler(&shown, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	k := rotate(t, r)
	later(t, c, every, r)
	taint(t, r, k.KID)
	for _, want := range []string{"is published", "is active", "is gone", "was tainted", k.KID} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, shown.String())
		}
	}
	found := map[string]*ecdsa.PrivateKey{}
	for _, plain := range g.plain {
		var i inner
		if err := json.Unmarshal(plain, &i); err != nil {
			t.Fatal(err)
		}
		for _, k := range i.Keys {
			der, _ := base64.StdEncoding.DecodeString(k["private"].(string))
			private, err := x509.ParsePKCS8PrivateKey(der)
			if err != nil {
				t.Fatal(err)
			}
			found[k["kid"].(string)] = private.(*ecdsa.PrivateKey)
		}
	}
	if len(found) < 3 {
		t.Fatalf("%d keys were sealed, want 3 or more", len(found))
	}
	g.plain = nil // What the test kept is not the ring's fault.

	type holder struct {
		R *ring.Ring
		r *ring.Ring
	}
	h := holder{r, r}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X"} {
		_, _ = fmt.Fprintf(&shown, verb+"\n"+verb+"\n", r, h)
		if got := fmt.Sprintf(verb, r); got != r.String() {
			t.Errorf("Sprintf(%s) = %s, want %s", verb, got, r)
		}
	}
	_, _ = fmt.Fprintln(&shown, r.String(), h.r, r.List(), r.Tainted())
	slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "ring", r, "holder", h)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("x", "ring", r, "holder", h, "list", r.List())
	for _, v := range []any{r, h, map[string]any{"r": r}} {
		doc, err := json.Marshal(v)
		if err != nil {
			t.Errorf("Marshal = %v", err)
		}
		shown.Write(doc)
	}
	for kid, private := range found {
		noPrivate(t, "printing "+kid, shown.String(), private)
		noPrivate(t, "the document", string(r.Document()), private)
		noPrivate(t, "the storage", string(m.data), private)
	}
	if !strings.HasPrefix(r.String(), "key ring, active key ") {
		t.Errorf("String() = %s", r)
	}
	if doc, err := json.Marshal(r); err != nil || string(doc) != `"`+r.String()+`"` {
		t.Errorf("Marshal = %s, %v, want what String says", doc, err)
	}
	table := newTable(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, table); got != table.String() {
			t.Errorf("Sprintf(%s, table) = %s", verb, got)
		}
	}
}
