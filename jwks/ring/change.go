package ring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// attempts bounds how often a change is tried anew because another process was
// faster.
const attempts = 5

// ErrUnknownKey means that the ring has no key of that kid.
var ErrUnknownKey = errors.New("the ring has no such key")

// errRolledBack: a storage that goes back would bring tainted keys to life.
var errRolledBack = errors.New("the storage holds an older ring than was read before; restart if that is meant")

// Run reads the ring again and again, so that it is never stale, and makes and
// drops keys when they are due, until ctx ends; then it returns nil. Each
// process that has the ring open runs it.
func (r *Ring) Run(ctx context.Context) error {
	ticker := time.NewTicker(r.tick())
	defer ticker.Stop()
	trouble := ""
	for {
		early := r.asked
		err := r.Advance(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			early = nil // While the storage fails it is asked once a tick.
		}
		switch {
		case err != nil && err.Error() != trouble:
			trouble = err.Error()
			r.c.Log.Error("keeping the signing keys", "err", trouble)
		case err == nil && trouble != "":
			trouble = ""
			r.c.Log.Info("keeping the signing keys: all is well again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-early:
		}
	}
}

func (r *Ring) tick() time.Duration { return r.c.MaxStale / readsPerStale }

// Advance does once what [Ring.Run] does again and again: it takes over what
// other processes changed, prepares a key if one is due, and drops those that
// are gone.
func (r *Ring) Advance(ctx context.Context) error {
	err := r.change(ctx, func(ctx context.Context, l *life) (bool, error) {
		now := r.c.Now()
		changed := l.forget(now)
		if !l.due(now, r.c) {
			return changed, nil
		}
		return true, r.prepare(ctx, l)
	})
	if err != nil {
		return fmt.Errorf("advancing the key ring: %w", err)
	}
	return nil
}

// Rotate prepares a key now and returns it. It signs at its ActiveFrom, when
// Lead has passed since every process publishes it. If one is prepared already,
// that is returned and nothing changes.
func (r *Ring) Rotate(ctx context.Context) (Key, error) {
	var prepared string
	err := r.change(ctx, func(ctx context.Context, l *life) (changed bool, err error) {
		if !l.prepared(r.c.Now()) {
			changed, err = true, r.prepare(ctx, l)
		}
		prepared = l.keys[len(l.keys)-1].KID
		return changed, err
	})
	if err != nil {
		return Key{}, fmt.Errorf("rotating the signing key: %w", err)
	}
	list := r.List()
	if i := slices.IndexFunc(list, func(k Key) bool { return k.KID == prepared }); i >= 0 {
		return list[i], nil
	}
	return Key{}, errors.New("rotating the signing key: the new key was tainted at once")
}

func (r *Ring) prepare(ctx context.Context, l *life) error {
	if len(l.keys) >= MaxKeys {
		return fmt.Errorf("the ring has %d keys already", len(l.keys))
	}
	k, err := r.generate(ctx)
	if err != nil {
		return err
	}
	l.succeed(k, r.c.Now(), r.c) // The time anew: a vault may take long.
	return nil
}

// Taint drops the key from the document and never signs with it again, here at
// once, in other processes when they next read the ring, MaxStale later at most.
// If the key was active, the prepared one takes over, or else a fresh one that
// no verifier knows yet: they fetch it when they see it, and refuse it for as
// long as their cooldown lasts. The caller must revoke all that the key signed:
// verifiers know it until they next fetch. The error matches [ErrUnknownKey] if
// there is no such key; a key tainted already is returned again.
func (r *Ring) Taint(ctx context.Context, kid string) (Tainted, error) {
	var t Tainted
	err := r.change(ctx, func(ctx context.Context, l *life) (bool, error) {
		if i := slices.IndexFunc(l.tainted, func(t Tainted) bool { return t.KID == kid }); i >= 0 {
			t = l.tainted[i]
			return false, nil
		}
		i := slices.IndexFunc(l.keys, func(k key) bool { return k.KID == kid })
		if i < 0 {
			return false, ErrUnknownKey
		}
		var err error
		t, err = l.taint(i, r.c.Now(), r.c, func() (key, error) { return r.generate(ctx) })
		return true, err
	})
	if err != nil {
		return Tainted{}, fmt.Errorf("tainting a signing key: %w", err)
	}
	return t, nil
}

// change reads the ring, changes it by f and writes it. The storage comes first:
// no token is ever signed by a key that a crash could lose. If another process
// wrote meanwhile, f is asked again with what that one wrote.
func (r *Ring) change(ctx context.Context, f func(context.Context, *life) (changed bool, err error)) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	for range attempts {
		old, err := r.refresh(ctx)
		if err != nil {
			return err
		}
		next := old.clone()
		changed, err := f(ctx, &next)
		if err != nil || !changed {
			return err
		}
		err = r.save(ctx, next, old)
		if errors.Is(err, ErrChanged) {
			r.destroy(ctx, without(next.keys, old.keys)...)
			continue
		}
		if err != nil {
			return err // Whether it was written is not known, so no key is destroyed.
		}
		_, err = r.refresh(ctx) // What was written can be read, or we say so now.
		r.destroy(ctx, without(old.keys, next.keys)...)
		return err
	}
	return fmt.Errorf("other processes were faster %d times: %w", attempts, ErrChanged)
}

// refresh reads the ring, holds it, and logs what is new.
func (r *Ring) refresh(ctx context.Context) (*held, error) {
	h, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	old := r.held.Swap(h)
	if kid := h.keys[h.signing(h.at)].KID; kid != r.signs {
		r.signs = kid
		r.c.Log.Info("a signing key is active", "kid", kid)
	}
	if old.version == h.version {
		return h, nil
	}
	for _, k := range without(h.keys, old.keys) {
		r.c.Log.Info("a signing key is published", "kid", k.KID, "alg", k.Alg, "active_from", k.ActiveFrom)
	}
	for _, k := range without(old.keys, h.keys) {
		if i := slices.IndexFunc(h.tainted, func(t Tainted) bool { return t.KID == k.KID }); i >= 0 {
			r.c.Log.Warn("a signing key was tainted", "kid", k.KID, "at", h.tainted[i].At)
			continue
		}
		r.c.Log.Info("a signing key is gone", "kid", k.KID, "gone_at", k.GoneAt)
	}
	return h, nil
}

// load reads the ring. A ring that was read already is not decoded again, unless
// one of its keys lacked its vault.
func (r *Ring) load(ctx context.Context) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, r.tick())
	defer cancel()
	at := r.c.Now() // Before it is read: what comes later may be missing.
	data, version, err := r.c.Storage.Load(ctx)
	if err != nil {
		return nil, err
	}
	old := r.held.Load()
	if old != nil && old.version == version && !old.troubled(at) {
		h := *old
		h.at = at
		return &h, nil
	}
	h, err := r.decode(ctx, data, at)
	if err != nil {
		return nil, err
	}
	if old != nil && h.serial < old.serial {
		return nil, errRolledBack
	}
	h.version, h.at = version, at
	return h, nil
}

// troubled tells whether a key that signs, or will, can't.
func (h *held) troubled(now time.Time) bool {
	return slices.ContainsFunc(h.keys[h.signing(now):], func(k key) bool { return k.material.trouble != nil })
}

func (r *Ring) save(ctx context.Context, next life, old *held) error {
	data, err := encode(next, old.serial+1, r.c.Sealer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.tick())
	defer cancel()
	return r.c.Storage.Save(ctx, data, old.version)
}

// without returns the keys that are not among others.
func without(keys, others []key) []key {
	return slices.DeleteFunc(slices.Clone(keys), func(k key) bool {
		return slices.ContainsFunc(others, func(o key) bool { return o.KID == k.KID })
	})
}
