package ring_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks/ring"
)

// skew is how far the clocks of the replicas of a story may be from the true
// one.
const skew = 10 * time.Second

// replica is one process of several that share a ring.
type replica struct {
	ring *ring.Ring
	wire *line
	off  time.Duration // Of its clock.
}

// story is what happened: all that was published and signed, in true time.
type story struct {
	t        *rapid.T
	clock    *clock
	replicas []*replica
	docs     []served
	tokens   []signature
	tainted  map[string]time.Time
	urgent   map[string]time.Time // Keys that took over for a tainted one, without Lead.
}

type served struct {
	at   time.Time
	by   int
	kids []string
}

type signature struct {
	at  time.Time
	by  int
	kid string
}

// At every moment of weeks, with replicas that sleep, are cut off and have wrong
// clocks, while keys are rotated and tainted: each token verifies under every
// document that a verifier may hold then, which is any that was published Lead
// earlier or later, until the token has expired.
func TestEveryTokenVerifies(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &story{t: rt, clock: newClock(), tainted: map[string]time.Time{}, urgent: map[string]time.Time{}}
		shared, sealer := &memory{}, newSealer(t)
		for i := range rapid.IntRange(1, 3).Draw(rt, "replicas") {
			p := &replica{wire: &line{Storage: shared}, off: time.Duration(rapid.Int64Range(-int64(skew), int64(skew)).Draw(rt, "off"))}
			conf := ring.Config{Storage: p.wire, Sealer: sealer, Now: func() time.Time { return s.clock.now().Add(p.off) }, Every: 7 * 24 * time.Hour}
			if i == 0 {
				p.ring = create(t, conf)
			} else {
				p.ring = open(t, conf)
			}
			s.replicas = append(s.replicas, p)
		}
		// Before, verifiers know nothing and nothing was signed.
		s.urgent[s.replicas[0].ring.List()[0].KID] = s.clock.now()
		for range rapid.IntRange(50, 250).Draw(rt, "steps") {
			s.step()
			s.look()
		}
		s.check()
	})
}

// step lets something happen.
func (s *story) step() {
	i := rapid.IntRange(0, len(s.replicas)-1).Draw(s.t, "replica")
	p := s.replicas[i]
	switch rapid.SampledFrom([]string{"wait", "wait", "wait", "long", "long", "rotate", "rotate", "taint", "cut", "read"}).Draw(s.t, "what") {
	case "wait":
		s.clock.add(rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, stale, 5 * time.Minute, lead, lead + stale, hold}).Draw(s.t, "for"))
	case "long":
		s.clock.add(rapid.SampledFrom([]time.Duration{time.Hour, 24 * time.Hour, 7*24*time.Hour - lead - stale, 9 * 24 * time.Hour}).Draw(s.t, "for"))
	case "rotate":
		if _, err := p.ring.Rotate(s.t.Context()); err != nil && !p.wire.cut.Load() {
			s.t.Fatal(err)
		}
		return
	case "taint":
		if rapid.IntRange(0, 3).Draw(s.t, "rarely") == 0 && !p.wire.cut.Load() {
			s.taint(p)
		}
		return
	case "cut":
		p.wire.cut.Store(!p.wire.cut.Load())
		return
	}
	for _, p := range s.replicas {
		if rapid.IntRange(0, 4).Draw(s.t, "awake") > 0 {
			if err := p.ring.Advance(s.t.Context()); err != nil && !p.wire.cut.Load() {
				s.t.Fatal(err)
			}
		}
	}
}

func (s *story) taint(p *replica) {
	if err := p.ring.Advance(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	list := p.ring.List()
	k := list[rapid.IntRange(0, len(list)-1).Draw(s.t, "key")]
	if _, err := p.ring.Taint(s.t.Context(), k.KID); err != nil {
		s.t.Fatal(err)
	}
	s.tainted[k.KID] = s.clock.now()
	for _, now := range p.ring.List() {
		i := slices.IndexFunc(list, func(before ring.Key) bool { return before.KID == now.KID })
		if i < 0 || now.ActiveFrom.Before(list[i].ActiveFrom) {
			s.urgent[now.KID] = s.clock.now()
		}
	}
	if doc := p.ring.Document(); slices.Contains(published(s.t, doc), k.KID) {
		s.t.Fatal("a key is published by who tainted it")
	}
}

// look notes what each replica publishes and signs just now.
func (s *story) look() {
	for i, p := range s.replicas {
		raw, err := p.ring.Sign([]byte("{}"), "at+jwt")
		doc := p.ring.Document()
		if stale := errors.Is(err, ring.ErrStale); err != nil && !stale || stale != (doc == nil) {
			s.t.Fatalf("Sign = %v, with a document of %d bytes", err, len(doc))
		}
		if err != nil {
			continue
		}
		s.docs = append(s.docs, served{s.clock.now(), i, published(s.t, doc)})
		s.tokens = append(s.tokens, signature{s.clock.now(), i, signedBy(s.t, raw)})
	}
}

func (s *story) check() {
	for _, tok := range s.tokens {
		bad, isTainted := s.tainted[tok.kid]
		if isTainted && tok.at.After(bad.Add(stale)) {
			s.t.Fatalf("replica %d signs with a key %s after it was tainted", tok.by, tok.at.Sub(bad))
		}
		from, until := tok.at.Add(-lead).Add(2*skew), tok.at.Add(token.MaxLifetime)
		if u, ok := s.urgent[tok.kid]; ok && from.Before(u.Add(stale)) {
			from = u.Add(stale) // All replicas have heard of it by then.
		}
		for _, doc := range s.docs {
			if isTainted && !doc.at.Before(bad) {
				if doc.at.After(bad.Add(stale)) && slices.Contains(doc.kids, tok.kid) {
					s.t.Fatalf("replica %d publishes a key %s after it was tainted", doc.by, doc.at.Sub(bad))
				}
				continue
			}
			if doc.at.After(from) && !doc.at.After(until) && !slices.Contains(doc.kids, tok.kid) {
				s.t.Fatalf("what replica %d signed at %s does not verify under what replica %d published at %s",
					tok.by, tok.at.Sub(start), doc.by, doc.at.Sub(start))
			}
		}
	}
}

// Run does it all by itself, on time, and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		wire := &line{Storage: m}
		conf := ring.Config{Storage: wire, Sealer: newSealer(t), Every: 24 * time.Hour}
		var ahead atomic.Int64 // How far the wall clock is.
		conf.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		a := create(t, conf)
		conf.Storage = m
		b := open(t, conf)
		done := make(chan error, 2)
		ctx, cancel := context.WithCancel(t.Context())
		for _, r := range []*ring.Ring{a, b} {
			go func() { done <- r.Run(ctx) }()
		}
		var signers []string
		for range 5*24*6 - 1 {
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			for _, r := range []*ring.Ring{a, b} {
				if err := verify(t, r.Document(), sign(t, a)); err != nil {
					t.Fatal(err)
				}
			}
			if kid := signedBy(t, sign(t, b)); !slices.Contains(signers, kid) {
				signers = append(signers, kid)
			}
		}
		if len(signers) != 5 {
			t.Errorf("%d keys signed in five days, want 5", len(signers))
		}
		// What one taints the other drops within a tick.
		kid := signers[len(signers)-1]
		taint(t, a, kid)
		time.Sleep(stale / 6)
		synctest.Wait()
		if slices.Contains(published(t, b.Document()), kid) {
			t.Error("a tick later the other replica publishes the tainted key")
		}
		// Cut off, it falls silent; connected again, it recovers.
		wire.cut.Store(true)
		time.Sleep(stale + time.Second)
		if err := a.Ready(); !errors.Is(err, ring.ErrStale) {
			t.Errorf("Ready = %v, want ErrStale", err)
		}
		wire.cut.Store(false)
		time.Sleep(stale / 6)
		synctest.Wait()
		if err := errors.Join(a.Ready(), b.Ready()); err != nil {
			t.Error(err)
		}
		// A machine that slept reads the ring as soon as it is asked to sign.
		ahead.Store(int64(time.Hour))
		if raw, err := a.Sign([]byte("{}"), "at+jwt"); !errors.Is(err, ring.ErrStale) {
			t.Errorf("Sign after a sleep = %s, %v, want ErrStale", raw, err)
		}
		synctest.Wait()
		sign(t, a)
		// While its storage fails, being asked does not make it read more often.
		wire.cut.Store(true)
		ahead.Store(int64(2 * time.Hour))
		reads := wire.reads.Load()
		for range 100 {
			_ = a.Ready()
			synctest.Wait()
		}
		if n := wire.reads.Load() - reads; n > 1 {
			t.Errorf("a ring whose storage fails reads it %d times in no time", n)
		}
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}
