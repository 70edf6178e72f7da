package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/ledger/redisledger"
	"github.com/hourpass/hourpass/internal/ledger/sqlledger"
	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/token"
)

// overshoot is what one drill comes to.
type overshoot struct {
	Engine      string `json:"engine"`
	Budget      int64  `json:"budget"`
	Spent       int64  `json:"spent"`           // As the model server counts.
	Outstanding int64  `json:"outstanding_max"` // In leases, at one moment.
	Calls       int64  `json:"calls"`
	Kills       int    `json:"kills"`
}

// counter is a model server that knows what it was made to do: a token each pace,
// until the answer is as long as was asked for or the client has gone.
type counter struct {
	pace         time.Duration
	spent, calls atomic.Int64
}

const promptTokens = 5

func (m *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Stream    bool `json:"stream"`
		MaxTokens int  `json:"max_tokens"`
	}
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m.calls.Add(1)
	m.spent.Add(promptTokens)
	say := func(text string) {
		if ask.Stream {
			_, _ = io.WriteString(w, "data: "+text+"\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	}
	if w.Header().Set("Content-Type", "application/json"); ask.Stream {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	tick := time.NewTicker(m.pace)
	defer tick.Stop()
	for range ask.MaxTokens {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
		m.spent.Add(1)
		say(`{"choices":[{"index":0,"delta":{"content":"word"}}]}`)
	}
	cost := fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d}}`, promptTokens, ask.MaxTokens)
	if !ask.Stream {
		_, _ = io.WriteString(w, `{"choices":[{"index":0,"message":{"content":"word"}}],`+cost)
		return
	}
	say(`{"choices":[],` + cost)
	say("[DONE]")
}

// link is a way to a server that can be cut: what is connected falls silent, and
// nobody else gets through.
type link struct {
	net.Listener
	to  string
	cut atomic.Bool
}

func newLink(t testing.TB, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &link{Listener: l, to: to}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(c)
		}
	}()
	return w
}

func (w *link) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer server.Close()
	pass := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if w.cut.Load() {
				continue // It is dropped, as by a network that is cut.
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go pass(server, client)
	pass(client, server)
}

// drill is a fleet of verifiers with one budget.
type drill struct {
	*lone
	settings string // Of the ledger, in each verifier's configuration.
	book     ledger.Book
	link     *link
	restart  func() // The ledger.

	fleet []*member
}

type member struct {
	mu      sync.Mutex
	url     string
	config  string
	ops     string
	process *exec.Cmd
}

const (
	drillLease     = 3 * time.Second
	drillVerifiers = 8
	drillClients   = 200
)

func (d *drill) startFleet(model string) {
	keys := d.write("keys.json", d.keySet())
	for i := range drillVerifiers {
		addr, ops := freeAddr(d.t), freeAddr(d.t)
		m := &member{url: "http://" + addr, ops: "http://" + ops}
		m.config = d.write(fmt.Sprintf("verifier-%d.yaml", i), fmt.Appendf(nil, `
listen: %s
ops_listen: %s
audit: %s
issuer: %s
audience: models
key_set: {file: %s}
%s
upstreams:
  - {name: counter, url: %q, models: [small]}
drain_timeout: 5s
`, addr, ops, d.auditLog(), loneIssuer, keys, d.settings, model))
		d.fleet = append(d.fleet, m)
		m.start(d.t)
	}
	d.t.Cleanup(func() {
		for _, m := range d.fleet {
			m.end(syscall.SIGKILL)
		}
	})
	for _, m := range d.fleet {
		m.await(d.t)
	}
}

func (m *member) start(t testing.TB) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.process = exec.CommandContext(context.WithoutCancel(t.Context()), binary(t, "hourpass-verifier"), "--config", m.config)
	if err := m.process.Start(); err != nil {
		t.Error(err)
	}
}

func (m *member) await(t testing.TB) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		res, err := http.Get(m.ops + "/livez")
		if err == nil {
			res.Body.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a verifier does not start: %v", err)
		}
	}
}

func (m *member) end(by syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.process.Process.Signal(by)
	_ = m.process.Wait() // It was told to end.
}

// client calls until stop, in all ways there are, and leaves some calls early.
func (d *drill) client(stop <-chan struct{}, seed uint64, bearer string, refused *atomic.Int64) {
	r := rand.New(rand.NewPCG(7, seed))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	for {
		select {
		case <-stop:
			return
		default:
		}
		body := fmt.Sprintf(`{"model":"small","messages":[{"role":"user","content":"hello, how are you today?"}],"max_tokens":%d,"stream":%t}`, 10+r.IntN(50), r.IntN(3) > 0)
		ctx, cancel := context.WithCancel(context.Background())
		if r.IntN(5) == 0 {
			ctx, cancel = context.WithTimeout(context.Background(), time.Duration(r.IntN(600))*time.Millisecond)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.fleet[r.IntN(len(d.fleet))].url+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			d.t.Error(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		status := 0
		if err == nil {
			status = res.StatusCode
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		cancel()
		if status != http.StatusOK {
			if status == http.StatusPaymentRequired {
				refused.Add(1)
			}
			select { // It comes again a little later.
			case <-stop:
			case <-time.After(time.Duration(20+r.IntN(80)) * time.Millisecond):
			}
		}
	}
}

// hold holds the drill: the budget is spent while verifiers are killed, the ledger
// restarted and its network cut. Whatever happens, no more is spent than there is
// and what was outstanding; and nothing stays reserved.
func (d *drill) hold(name string, budget int64, kills int, pace time.Duration) overshoot {
	model := &counter{pace: pace}
	srv := httptest.NewServer(model)
	d.t.Cleanup(srv.Close)
	d.startFleet(srv.URL)
	bearer := d.token("chat:small", func(c claims) { c["lim"] = claims{"tokens/month": budget} })
	l, err := token.ParseLimit("tokens/month")
	if err != nil {
		d.t.Fatal(err)
	}
	start, _ := l.Span(time.Now())
	account := ledger.Name(loneIssuer, &l, "key0123456789abc", start)
	balance := func() (ledger.Balance, error) {
		b, err := d.book.Balances(d.t.Context(), []string{account})
		if err != nil {
			return ledger.Balance{}, err
		}
		return b[0], nil
	}

	stop := make(chan struct{})
	var clients sync.WaitGroup
	var refused atomic.Int64
	for n := range drillClients {
		clients.Go(func() { d.client(stop, uint64(n), bearer, &refused) })
	}
	var watching sync.WaitGroup
	outstanding := int64(0)
	watching.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				if b, err := balance(); err == nil {
					outstanding = max(outstanding, b.Held)
				}
			}
		}
	})
	// Each trouble comes when a further part of the budget is spent.
	trouble := 0
	at := func(n int64) {
		for end := time.Now().Add(2 * time.Minute); model.spent.Load() < n && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	troubles := int64(kills + 2)
	for i := range int64(kills) {
		trouble++
		at(budget * int64(trouble) / (troubles + 1))
		m := d.fleet[int(i*5+1)%len(d.fleet)]
		m.end(syscall.SIGKILL)
		m.start(d.t)
		switch i {
		case int64(kills) / 3:
			d.restart()
		case int64(kills) / 2:
			d.link.cut.Store(true)
			time.AfterFunc(drillLease+time.Second, func() { d.link.cut.Store(false) }) // Longer than a lease.
		}
	}
	for end := time.Now().Add(3 * time.Minute); refused.Load() < 5*drillClients && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	clients.Wait()
	watching.Wait()
	for _, m := range d.fleet {
		m.end(syscall.SIGTERM)
	}
	result := overshoot{name, budget, model.spent.Load(), outstanding, model.calls.Load(), kills}
	if result.Spent > budget+outstanding {
		d.t.Errorf("%d tokens are spent of %d, with at most %d outstanding", result.Spent, budget, outstanding)
	}
	if result.Spent < budget*9/10 {
		d.t.Errorf("only %d tokens are spent of %d: the load was none, or leases are lost", result.Spent, budget)
	}
	for end := time.Now().Add(drillLease + 2*time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := balance()
		if err == nil && b.Held == 0 {
			break
		}
		if time.Now().After(end) {
			d.t.Errorf("%d tokens are still reserved when all leases have ended: %v", b.Held, err)
			break
		}
	}
	return result
}

func newDrill(t testing.TB) *drill { return &drill{lone: newLone(t)} }

func (d *drill) configure(what string) {
	d.settings = fmt.Sprintf("revocations: {off: true}\nledger: {engine: redis, url: %q, lease: %s}", what, drillLease)
}

// redisDrill has the ledger in Redis.
func redisDrill(t testing.TB) *drill {
	d := newDrill(t)
	server := peers.StartRedis(t)
	d.link = newLink(t, server.Addr)
	d.configure("redis://" + d.link.Addr().String())
	l, err := redisledger.Open(redisledger.Config{URL: "redis://" + server.Addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	d.book = l
	d.restart = func() {
		server.Kill()
		server.Start(t)
	}
	return d
}

// issuerDrill has the ledger in the issuer's store.
func issuerDrill(t *testing.T, where string) *drill {
	d := newDrill(t)
	h := newHouse(t)
	if where != "" {
		h.store = where
	}
	h.writeConfigs(nil)
	config := filepath.Join(h.dir, "issuer.yaml")
	if out, err := exec.Command(binary(t, "hourpass-issuer"), "init", "--config", config).CombinedOutput(); err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	key := h.makeKey(func(k *policy.Key) { k.VerifierFor = []string{"models"} }, time.Hour)
	issuer := h.process("hourpass-issuer", config)
	h.awaitReady(h.issuerOps)
	t.Cleanup(func() {
		_ = issuer.Process.Kill()
		_ = issuer.Wait() // It was killed.
	})
	d.link = newLink(t, strings.TrimPrefix(h.issuer, "http://"))
	d.settings = fmt.Sprintf("revocations: {off: true, key: %q}\nledger: {engine: issuer, url: \"http://%s/ledger\", lease: %s}", key.Secret, d.link.Addr(), drillLease)
	db, err := store.Open(t.Context(), h.store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	d.book = sqlledger.New(db, nil)
	d.restart = func() {
		_ = issuer.Process.Kill()
		_ = issuer.Wait() // It was killed.
		issuer = h.process("hourpass-issuer", config)
		h.awaitReady(h.issuerOps)
	}
	return d
}

// TestOvershoot is the drill with each engine: reduced, or in full with
// HOURPASS_TEST_DRILL=overshoot. HOURPASS_DRILL_OUT names a file for its figures,
// a JSON object on each line.
func TestOvershoot(t *testing.T) {
	budget, kills, pace := int64(12_000), 3, 10*time.Millisecond
	full := os.Getenv("HOURPASS_TEST_DRILL") == "overshoot"
	if full {
		budget, kills = 150_000, 8
	}
	engines := []string{"redis", "sqlite"}
	if full {
		engines = append(engines, "postgres")
	}
	var lines bytes.Buffer
	for _, name := range engines {
		t.Run(name, func(t *testing.T) {
			var d *drill
			switch name {
			case "redis":
				d = redisDrill(t)
			case "sqlite":
				d = issuerDrill(t, "")
			default:
				d = issuerDrill(t, peers.Postgres(t))
			}
			result := d.hold(name, budget, kills, pace)
			line, err := json.Marshal(result)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s", line)
			lines.Write(append(line, '\n'))
		})
	}
	if path := os.Getenv("HOURPASS_DRILL_OUT"); path != "" {
		if err := os.WriteFile(path, lines.Bytes(), 0o600); err != nil {
			t.Error(err)
		}
	}
}
