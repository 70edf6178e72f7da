//go:build pkcs11

// Package pkcs11 is a [ring.Vault] in a PKCS #11 token, such as an HSM: it makes
// ES256 and RS256 keys there that can't be taken out, and signs with them. It
// knows nothing of what it signs, nor of when keys live.
//
// It needs cgo and the module of the token's maker, so it is built with the tag
// pkcs11 alone.
//
// Start with [Open].
package pkcs11

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"github.com/hourpass/hourpass/jwks/ring"
)

// Config says which token to use. All but Sessions is required.
type Config struct {
	Module string // The path of the maker's shared library.
	Token  string // The label of the token.
	PIN    string `json:"-"` // Of its user. Never printed.

	// Sessions is how many signatures the token makes at a time. Zero means 8.
	Sessions int
}

const defaultSessions = 8

// label is what our keys are called in the token, for people to see. They are
// found by their id.
const label = "hourpass signing key"

// Vault is a token that is logged into. It is safe for concurrent use.
type Vault struct {
	module *pkcs11.Ctx
	slot   uint
	pin    string

	// One for each session; nil is one that is to be opened.
	idle chan *session

	// What fails ends an era: the token may have been taken out, or have
	// restarted, and no session of before is used again.
	era atomic.Uint64
}

type session struct {
	handle pkcs11.SessionHandle
	era    uint64
}

// A module may be initialised once in a process, so vaults share it.
var modules = struct {
	sync.Mutex
	open map[string]*pkcs11.Ctx
}{open: map[string]*pkcs11.Ctx{}}

// Open loads the module, finds the token and logs in. A wrong PIN is an error
// now, not at the first signature: tokens lock themselves after a few. The module
// stays loaded until the process ends.
func Open(c Config) (*Vault, error) {
	if c.Sessions == 0 {
		c.Sessions = defaultSessions
	}
	if c.Module == "" || c.Token == "" || c.PIN == "" || c.Sessions < 0 {
		return nil, errors.New("opening a PKCS #11 token: want a module, a token's label and a PIN")
	}
	module, err := load(c.Module)
	if err != nil {
		return nil, fmt.Errorf("opening a PKCS #11 token: %w", err)
	}
	v := &Vault{module: module, pin: c.PIN, idle: make(chan *session, c.Sessions)}
	if v.slot, err = find(module, c.Token); err != nil {
		return nil, fmt.Errorf("opening a PKCS #11 token: %w", err)
	}
	first, err := v.open()
	if err != nil {
		return nil, fmt.Errorf("opening a PKCS #11 token: %w", err)
	}
	v.idle <- first
	for range c.Sessions - 1 {
		v.idle <- nil
	}
	return v, nil
}

func load(path string) (*pkcs11.Ctx, error) {
	modules.Lock()
	defer modules.Unlock()
	if m := modules.open[path]; m != nil {
		return m, nil
	}
	m := pkcs11.New(path)
	if m == nil {
		return nil, fmt.Errorf("the module %s can't be loaded", path)
	}
	if err := m.Initialize(); err != nil {
		m.Destroy()
		return nil, fmt.Errorf("initialising the module %s: %w", path, err)
	}
	modules.open[path] = m
	return m, nil
}

// find returns the slot of the one token of that label.
func find(module *pkcs11.Ctx, label string) (uint, error) {
	slots, err := module.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing its slots: %w", err)
	}
	var found []uint
	for _, slot := range slots {
		info, err := module.GetTokenInfo(slot)
		if err == nil && info.Label == label {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d tokens have the label %q, want one", len(found), label)
	}
	return found[0], nil
}

// Close ends the sessions when all that is under way is done. The vault and its
// keys are of no use after it.
func (v *Vault) Close() {
	for range cap(v.idle) {
		if s := <-v.idle; s != nil {
			_ = v.module.CloseSession(s.handle)
		}
	}
}

// open opens a session and logs in: being logged in is the whole process's
// state, and ends with its last session.
func (v *Vault) open() (*session, error) {
	era := v.era.Load()
	handle, err := v.module.OpenSession(v.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	err = v.module.Login(handle, pkcs11.CKU_USER, v.pin)
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		_ = v.module.CloseSession(handle)
		return nil, fmt.Errorf("logging in: %w", err)
	}
	return &session{handle, era}, nil
}

// twice is do, and once more in a new session if that fails: for what does no
// harm when it is done again.
func (v *Vault) twice(ctx context.Context, f func(pkcs11.SessionHandle) error) error {
	if v.do(ctx, f) == nil {
		return nil
	}
	return v.do(ctx, f)
}

// do calls f with a session of its own.
func (v *Vault) do(ctx context.Context, f func(pkcs11.SessionHandle) error) error {
	var s *session
	select {
	case s = <-v.idle:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { v.idle <- s }()
	if s != nil && s.era != v.era.Load() {
		_ = v.module.CloseSession(s.handle)
		s = nil
	}
	if s == nil {
		fresh, err := v.open()
		if err != nil {
			return err
		}
		s = fresh
	}
	err := f(s.handle)
	if err != nil {
		v.era.CompareAndSwap(s.era, s.era+1)
	}
	return err
}

// Generate implements [ring.Vault] for ES256 and RS256.
func (v *Vault) Generate(ctx context.Context, alg string) (string, ring.Signer, error) {
	kind, ok := kinds[alg]
	if !ok {
		return "", nil, fmt.Errorf("making a key in the token: %s is not one of ES256, RS256", alg)
	}
	id := rand.Text()
	shared := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	public := append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true)}, shared...)
	private := append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
	}, shared...)
	err := v.do(ctx, func(s pkcs11.SessionHandle) error {
		_, _, err := v.module.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(kind.generate, nil)}, append(public, kind.public...), private)
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("making a key in the token: %w", err)
	}
	k, err := v.Open(ctx, id)
	if err != nil {
		return "", nil, errors.Join(err, v.Destroy(ctx, id))
	}
	return id, k, nil
}

// Open implements [ring.Vault].
func (v *Vault) Open(ctx context.Context, handle string) (ring.Signer, error) {
	k := &key{vault: v, id: handle}
	err := v.twice(ctx, func(s pkcs11.SessionHandle) (err error) {
		if k.kind, k.public, err = v.public(s, handle); err != nil {
			return err
		}
		object, err := v.find(s, pkcs11.CKO_PRIVATE_KEY, handle)
		k.object.Store(uint64(object))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("finding a key in the token: %w", err)
	}
	return k, nil
}

// Destroy implements [ring.Vault].
func (v *Vault) Destroy(ctx context.Context, handle string) error {
	err := v.do(ctx, func(s pkcs11.SessionHandle) error {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
			object, err := v.find(s, class, handle)
			if err != nil {
				return err
			}
			if err := v.module.DestroyObject(s, object); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("destroying a key in the token: %w", err)
	}
	return nil
}

// errNotThere means that the token has no such key, or two.
var errNotThere = errors.New("the token has not one key of that id")

func (v *Vault) find(s pkcs11.SessionHandle, class uint, id string) (pkcs11.ObjectHandle, error) {
	err := v.module.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
	})
	if err != nil {
		return 0, err
	}
	found, _, err := v.module.FindObjects(s, 2)
	if err := errors.Join(err, v.module.FindObjectsFinal(s)); err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, errNotThere
	}
	return found[0], nil
}
