package verifierd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/keys/format"
	"github.com/hourpass/hourpass/verifier"
)

// issuerSettings are one issuer whose tokens are accepted.
type issuerSettings struct {
	// Issuer is as its tokens write it. Required.
	Issuer string `yaml:"issuer"`

	// Audience is this verifier's name there, or its fleet's: tokens for others
	// are refused. Required.
	Audience string `yaml:"audience"`

	// Ceiling is all that its tokens can permit here, whatever they say. Empty:
	// what they say.
	Ceiling []string `yaml:"ceiling"`

	KeySet      keySetSettings     `yaml:"key_set"`
	Revocations revocationSettings `yaml:"revocations"`
}

// keySetSettings say where an issuer's public keys are and how they are kept.
type keySetSettings struct {
	// URL defaults to the issuer's /jwks.json.
	URL string `yaml:"url"`
	// File is a key set that somebody brings, for a site that can't reach the
	// issuer; it is read again when it changes. Instead of URL.
	File string `yaml:"file"`
	// Snapshot is a file with the last good key set, so that the verifier can
	// start while the issuer is down. Empty: none.
	Snapshot string `yaml:"snapshot"`
	// Refresh is how often they are fetched. Defaults to 5m.
	Refresh time.Duration `yaml:"refresh"`
	// MaxStale is how old they may get before calls are refused. Defaults to
	// 1h.
	MaxStale time.Duration `yaml:"max_stale"`
}

// revocationSettings say where an issuer's revocations are and how they are kept.
type revocationSettings struct {
	// URL defaults to the issuer's /revocations.
	URL string `yaml:"url"`
	// MaxStale is how old they may get before calls are refused: how long a
	// verifier that is cut off lets in what was revoked. Defaults to 10m.
	MaxStale time.Duration `yaml:"max_stale"`
	// Snapshot is a file that keeps them, to start while the issuer is down.
	Snapshot string `yaml:"snapshot"`
	// Key is a machine key with verifier_for, and Name the verifier's name, by
	// default the host's, to tell the issuer what is enforced.
	Key  config.Secret `yaml:"key"`
	Name string        `yaml:"name"`
	// Off lets each token live out its hour, whatever happens to its key.
	Off bool `yaml:"off"`
}

// check completes the settings at path, which ends in a dot or is empty.
func (s *issuerSettings) check(p *config.Problems, path string) {
	p.Check(isURL(s.Issuer), path+"issuer", "want the issuer's URL")
	p.Check(s.Audience != "", path+"audience", "is required")
	_, err := token.NewScopes(s.Ceiling...)
	p.Check(err == nil, path+"ceiling", "want scopes such as chat:faq-bot")
	p.Check(s.KeySet.File == "" || s.KeySet.URL == "" && s.KeySet.Snapshot == "", path+"key_set.file", "stands instead of url and snapshot")
	if s.KeySet.URL == "" {
		s.KeySet.URL = s.Issuer + "/jwks.json"
	}
	p.Check(isURL(s.KeySet.URL), path+"key_set.url", "want a URL")
	if s.Revocations.URL == "" {
		s.Revocations.URL = s.Issuer + "/revocations"
	}
	p.Check(isURL(s.Revocations.URL), path+"revocations.url", "want a URL")
	p.Check(s.Revocations.MaxStale >= 0, path+"revocations.max_stale", "must not be negative")
}

// keySource is where an issuer's keys come from.
type keySource interface {
	VerifyAs(p jwks.Profile, compact string, now time.Time) (payload []byte, kid string, err error)
	Generation(now time.Time) (uint64, error)
	Status(now time.Time) jwks.Status
	Urge()
}

// keySet is a key source as the verifier wants it.
type keySet struct{ keySource }

func (k keySet) Verify(compact string, now time.Time) ([]byte, string, error) {
	return k.VerifyAs(tokenProfile, compact, now)
}

var signingAlgorithms = []string{jwks.ES256, jwks.EdDSA, jwks.RS256}

var (
	tokenProfile      = jwks.Profile{Types: []string{token.Type}, Algorithms: signingAlgorithms, ExactHeader: true, MaxBytes: token.MaxBytes}
	revocationProfile = jwks.Profile{Types: []string{revocation.Type}, Algorithms: signingAlgorithms, ExactHeader: true, MaxBytes: revocation.MaxBytes}
)

// issuer is what the settings come to.
type issuer struct {
	verifier.Issuer
	keys keySource
	run  []runner
}

func (s *issuerSettings) open(o program.Options, log *slog.Logger) (i issuer, err error) {
	i.URL, i.Audience = s.Issuer, s.Audience
	if len(s.Ceiling) > 0 {
		if i.Ceiling, err = token.NewScopes(s.Ceiling...); err != nil {
			return issuer{}, err
		}
	}
	if s.KeySet.File != "" {
		file, err := jwks.OpenFile(s.KeySet.File, log)
		if err != nil {
			return issuer{}, err
		}
		i.keys, i.run = file, append(i.run, file.Run)
	} else {
		remote, err := jwks.NewRemote(jwks.Config{
			URL: s.KeySet.URL, Snapshot: s.KeySet.Snapshot, Refresh: s.KeySet.Refresh, MaxStale: s.KeySet.MaxStale, Log: log, Now: o.Clock(),
			Profile: tokenProfile,
		})
		if err != nil {
			return issuer{}, err
		}
		i.keys, i.run = remote, append(i.run, remote.Run)
	}
	i.Keys = keySet{i.keys}
	if s.Revocations.Off {
		return i, nil
	}
	if i.Revocations, err = s.openRevocations(i.keys, o, log); err != nil {
		return issuer{}, fmt.Errorf("revocations: %w", err)
	}
	i.run = append(i.run, i.Revocations.Run)
	return i, nil
}

func (s *issuerSettings) openRevocations(keys keySource, o program.Options, log *slog.Logger) (*verifier.Revocations, error) {
	r := &s.Revocations
	conf := verifier.RevocationsConfig{
		URL: r.URL, Issuer: s.Issuer, MaxStale: r.MaxStale, Snapshot: r.Snapshot, Log: log, Now: o.Clock(), Name: r.Name,
		Verify: func(compact string, now time.Time) ([]byte, error) {
			payload, _, err := keys.VerifyAs(revocationProfile, compact, now)
			if errors.Is(err, token.ErrUnknownKey) {
				keys.Urge() // The issuer signs with a key that it had to bring in at once.
			}
			return payload, err
		},
	}
	if key := r.Key.Reveal(); key != "" {
		id, err := format.ParseID(key)
		if err != nil {
			return nil, err
		}
		conf.KeyID, conf.Key = id, key
		if conf.Name == "" {
			if conf.Name, err = os.Hostname(); err != nil {
				return nil, err
			}
		}
	}
	return verifier.NewRevocations(conf)
}

// openIssuers opens them all.
func openIssuers(c *settings, o program.Options, log *slog.Logger) (list []issuer, err error) {
	for n := range c.Issuers {
		i, err := c.Issuers[n].open(o, log)
		if err != nil {
			return nil, fmt.Errorf("%s: issuer %s: %w", o.Config, strconv.Quote(c.Issuers[n].Issuer), err)
		}
		list = append(list, i)
	}
	return list, nil
}
