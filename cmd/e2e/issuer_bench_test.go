package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/seal"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/keys"
)

// How much a run of [BenchmarkIssuer] does.
const (
	benchWarm     = 500   // Exchanges that are not counted.
	benchFull     = 5_000 // At full load.
	benchSteady   = 5_000 // At 70 % of it.
	benchClients  = 32
	benchKeys     = 64
	benchAudience = "tools"
)

// BenchmarkIssuer measures whole exchanges (RFC 8693) over real sockets against
// the issuer as a process of its own: an RS256 identity token in, an ES256 token
// out, each audit record synced to disk before its answer leaves, each identity
// token good once. The crypto floor, one RS256 verification and one ES256
// signature, is measured in the same run. It is run by "make bench-issuer".
func BenchmarkIssuer(b *testing.B) {
	if b.N > 1 {
		return // One run says it all.
	}
	floor := cryptoFloor()
	b.Logf("crypto floor: %.0f µs CPU", floor)
	var result []byte
	for _, engine := range []string{"postgres", "sqlite"} { // The default comes last: its line is the result.
		where := filepath.Join(b.TempDir(), "issuer.db")
		if engine == "postgres" {
			where = peers.Postgres(b)
		}
		m := benchIssuer(b, where)
		m.Floor, m.Ratio = round(floor), round(m.CPU/floor)
		var err error
		if result, err = json.Marshal(m); err != nil {
			b.Fatal(err)
		}
		fmt.Printf("%-8s  full load: %.0f exchanges/s, %.0f µs CPU = %.2f × the crypto floor of %.0f µs; at 70 %%: p50 %.1f ms, p99 %.1f ms, %.0f µs CPU\n",
			engine, m.PerSecond, m.CPU, m.Ratio, floor, m.P50, m.P99, m.steadyCPU)
	}
	if out := os.Getenv("HOURPASS_BENCH_OUT"); out != "" {
		if err := os.WriteFile(out, append(result, '\n'), 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

// measured is the result.
type measured struct {
	PerSecond float64 `json:"exchanges_per_s"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	CPU       float64 `json:"cpu_us"` // Of the issuer's process, per exchange, at full load.
	Floor     float64 `json:"floor_us"`
	Ratio     float64 `json:"ratio"`
	steadyCPU float64 // At 70 %.
}

func round(f float64) float64 { return float64(int(f*100+0.5)) / 100 }

// cryptoFloor is the CPU time, in µs, of what an exchange can't do without, on a
// machine whose processors are all busy, as they are under load.
func cryptoFloor() float64 {
	from, _ := rsa.GenerateKey(rand.Reader, 2048)
	to, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	digest := sha256.Sum256(bytes.Repeat([]byte("x"), 500))
	signature, _ := rsa.SignPKCS1v15(rand.Reader, from, crypto.SHA256, digest[:])
	const rounds = 10_000
	var wg sync.WaitGroup
	began := ownCPU()
	for range runtime.NumCPU() {
		wg.Go(func() {
			for range rounds / runtime.NumCPU() {
				_ = rsa.VerifyPKCS1v15(&from.PublicKey, crypto.SHA256, digest[:], signature)
				_, _ = ecdsa.SignASN1(rand.Reader, to, digest[:])
			}
		})
	}
	wg.Wait()
	return float64((ownCPU() - began).Microseconds()) / rounds
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // It fails for no process of one's own.
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchIssuer starts an issuer on the store and loads it.
func benchIssuer(b *testing.B, where string) measured {
	dir, addr, ops := b.TempDir(), freeAddr(b), freeAddr(b)
	idp, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &idp.PublicKey, KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		b.Fatal(err)
	}
	config := write("issuer.yaml", fmt.Appendf(nil, `
url: http://%[1]s
listen: %[1]s
ops_listen: %[2]s
audiences: [models]
store: %[3]q
key_encryption_key: %[4]s/kek
pepper: %[4]s/pepper
audit: %[4]s/audit.jsonl
rates: {per_address: 1000000, per_key: 1000000}
providers:
  - {name: corp, issuer: "https://idp.example", audiences: [%[5]s], algorithms: [RS256], jwks_file: %[6]s}
grants:
  - {name: faq, scopes: ["chat:faq-bot"], members: [{provider: corp, groups: [faq-users]}]}
`, addr, ops, where, dir, benchAudience, write("idp.json", set)))
	if out, err := exec.Command(binary(b, "hourpass-issuer"), "init", "--config", config).CombinedOutput(); err != nil {
		b.Fatalf("init: %v: %s", err, out)
	}
	secrets := benchSecrets(b, where, filepath.Join(dir, "pepper"))
	identities := signAll(b, idp, benchWarm+benchFull+benchSteady)

	var logs bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), binary(b, "hourpass-issuer"), "--config", config)
	cmd.Stderr = &logs
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // Its end is tested elsewhere.
		if b.Failed() {
			b.Log(logs.String())
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get("http://" + ops + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("the issuer is not ready: %s", logs.String())
		}
	}

	l := &loader{b: b, url: "http://" + addr + "/token", secrets: secrets, identities: identities, client: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 2 * benchClients, MaxConnsPerHost: 2 * benchClients,
	}}}
	l.run(benchWarm, 0)
	cpu := processCPU(b, cmd.Process.Pid)
	took, _ := l.run(benchFull, 0)
	full := processCPU(b, cmd.Process.Pid)
	m := measured{PerSecond: round(benchFull / took.Seconds()), CPU: round(float64((full - cpu).Microseconds()) / benchFull)}
	_, latencies := l.run(benchSteady, time.Duration(float64(took)/benchFull/0.7))
	m.steadyCPU = round(float64((processCPU(b, cmd.Process.Pid) - full).Microseconds()) / benchSteady)
	slices.Sort(latencies)
	m.P50 = round(float64(latencies[len(latencies)/2].Microseconds()) / 1000)
	m.P99 = round(float64(latencies[len(latencies)*99/100].Microseconds()) / 1000)
	return m
}

func benchSecrets(b *testing.B, where, pepperFile string) (secrets []string) {
	db, err := store.Open(b.Context(), where)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	pepper, err := seal.LoadKey(pepperFile)
	if err != nil {
		b.Fatal(err)
	}
	s, err := keys.New(db, pepper)
	if err != nil {
		b.Fatal(err)
	}
	for range benchKeys {
		_, secret, err := s.Create(b.Context(), policy.Key{
			Owner: "corp:ada", Grants: []string{"faq"}, Bindings: []policy.Binding{{Issuer: "https://idp.example", Subject: "ada"}},
		}, time.Hour, time.Now(), nil)
		if err != nil {
			b.Fatal(err)
		}
		secrets = append(secrets, secret)
	}
	return secrets
}

// signAll signs that many identity tokens beforehand: RS256 is slow to sign.
func signAll(b *testing.B, key *rsa.PrivateKey, n int) []string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "k"))
	if err != nil {
		b.Fatal(err)
	}
	list := make([]string, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				now := time.Now()
				payload, _ := json.Marshal(claims{
					"iss": "https://idp.example", "sub": "ada", "aud": benchAudience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
					"auth_time": now.Unix(), "jti": rand.Text(), "groups": []string{"faq-users", "everybody"}, "name": "Ada Lovelace", "email": "ada@corp.example",
				})
				signed, err := signer.Sign(payload)
				if err == nil {
					list[i], err = signed.CompactSerialize()
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return list
}

// loader sends exchanges.
type loader struct {
	b          *testing.B
	url        string
	secrets    []string
	identities []string // Not used yet.
	client     *http.Client
}

// run sends n exchanges: with every zero as fast as the clients can, otherwise
// one each every, whatever happened to those before. A latency counts from when
// its request was due.
func (l *loader) run(n int, every time.Duration) (took time.Duration, latencies []time.Duration) {
	identities := l.identities[:n]
	l.identities = l.identities[n:]
	latencies = make([]time.Duration, n)
	clients := benchClients
	if every > 0 {
		clients *= 2
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				due := time.Now()
				if every > 0 {
					due = began.Add(time.Duration(i) * every)
					time.Sleep(time.Until(due))
				}
				if err := l.exchange(l.secrets[int(i)%len(l.secrets)], identities[i]); err != nil {
					l.b.Error(err)
					return
				}
				latencies[i] = time.Since(due)
			}
		})
	}
	wg.Wait()
	return time.Since(began), latencies
}

func (l *loader) exchange(secret, identity string) error {
	form := url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"}, "subject_token": {identity},
	}
	req, err := http.NewRequest(http.MethodPost, l.url, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(secret[4:20], secret)
	res, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return err
}

// processCPU is the CPU time that a process has used (proc(5)).
func processCPU(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
