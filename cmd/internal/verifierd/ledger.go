package verifierd

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/ledger/redisledger"
	"github.com/hourpass/hourpass/internal/ledger/remote"
	"github.com/hourpass/hourpass/keys/format"
	"github.com/hourpass/hourpass/verifier"
)

// The engines of the ledger.
const (
	issuerEngine = "issuer"
	memoryEngine = "memory"
	redisEngine  = "redis"
)

// ledgerSettings say where budgets are counted.
type ledgerSettings struct {
	// Engine is issuer, which wants an issuer's revocations.key, redis, or memory:
	// this verifier alone, and until it ends. Defaults to issuer where there is
	// such a key, to memory elsewhere.
	Engine string `yaml:"engine"`

	// URL of the issuer's ledger defaults to its /ledger. URL, Password and CA of
	// redis are redis://, or rediss:// for TLS, and what goes with it.
	URL      config.Secret `yaml:"url"` // It may hold a password.
	Password config.Secret `yaml:"password"`
	CA       string        `yaml:"ca"`

	// Lease is how long what this verifier has in hand is kept from others should
	// it die. Defaults to 30s.
	Lease time.Duration `yaml:"lease"`

	// Allowance is the share of each limit that may be spent while the ledger is
	// lost, once in its window: 0.05 is a twentieth. Defaults to 0: calls are
	// refused.
	Allowance float64 `yaml:"allowance"`
}

func (s *ledgerSettings) check(p *config.Problems) {
	url := s.URL.Reveal()
	p.Check(s.Engine == "" || s.Engine == issuerEngine || s.Engine == memoryEngine || s.Engine == redisEngine, "ledger.engine", "want issuer, redis or memory")
	isRedis := strings.HasPrefix(url, "redis://") || strings.HasPrefix(url, "rediss://")
	switch s.Engine {
	case redisEngine:
		p.Check(isRedis, "ledger.url", "want redis:// or rediss://")
	case memoryEngine:
		p.Check(url == "", "ledger.url", "goes with the engines issuer and redis")
	default:
		p.Check(url == "" || isURL(url), "ledger.url", "want a URL")
	}
	p.Check(s.Lease == 0 || s.Lease >= time.Second && s.Lease <= ledger.MaxLease, "ledger.lease", "want 1s to 10m")
	p.Check(s.Allowance >= 0 && s.Allowance <= 1, "ledger.allowance", "want 0 to 1")
}

// budgets gives each issuer budgets of the ledger, and returns what runs and ends
// with them.
func (s *ledgerSettings) budgets(issuers []issuer, c *settings, o program.Options, log *slog.Logger) (run []runner, err error) {
	var shared ledger.Engine
	switch s.Engine {
	case redisEngine:
		redis, err := redisledger.Open(redisledger.Config{URL: s.URL.Reveal(), Password: s.Password.Reveal(), CA: s.CA})
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		shared = redis // It ends with the process.
	case memoryEngine:
		shared = ledger.NewMemory(o.Clock())
	}
	for i := range issuers {
		engine := shared
		if engine == nil {
			if engine, err = s.engineOf(&c.Issuers[i], o, log); err != nil {
				return nil, err
			}
		}
		b, err := verifier.NewBudgets(verifier.BudgetsConfig{Engine: engine, Lease: s.Lease, Allowance: s.Allowance, Log: log, Now: o.Clock()})
		if err != nil {
			return nil, err
		}
		issuers[i].Budgets = b
		run = append(run, b.Run)
	}
	return run, nil
}

// engineOf is the ledger that an issuer keeps, or a memory.
func (s *ledgerSettings) engineOf(i *issuerSettings, o program.Options, log *slog.Logger) (ledger.Engine, error) {
	key := i.Revocations.Key.Reveal()
	if key == "" {
		if s.Engine == issuerEngine {
			return nil, fmt.Errorf("ledger: the engine issuer wants revocations.key of %s", i.Issuer)
		}
		log.Warn("budgets are counted in this process alone", "issuer", i.Issuer)
		return ledger.NewMemory(o.Clock()), nil
	}
	id, err := format.ParseID(key)
	if err != nil {
		return nil, fmt.Errorf("revocations.key: %w", err)
	}
	url := s.URL.Reveal()
	if url == "" {
		url = i.Issuer + "/ledger"
	}
	return &remote.Client{URL: url, KeyID: id, Key: key}, nil
}
