package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/revocation"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
)

// How much a run of [BenchmarkVerifier] does for each proxy.
const (
	verifierWarm   = 2_000  // Calls that are not counted.
	verifierFull   = 20_000 // At full load.
	verifierSteady = 10_000 // At 70 % of it.
)

// BenchmarkVerifier measures calls of 1 KiB over real sockets through one proxy
// after the other, each a process of its own in front of the same model server:
// the standard library's reverse proxy as it comes and with a tuned transport,
// which check nothing; the verifier with every check on, audit and revocations
// included, by one token that it knows and by a new token at each call; and
// HAProxy, which checks a JWT's algorithm, issuer, audience and signature. It is
// run by "make bench-verifier".
func BenchmarkVerifier(b *testing.B) {
	if b.N > 1 {
		return // One run says it all.
	}
	l := newCallLoad(b)
	fmt.Printf("%-22s %10s %8s %8s %10s %8s\n", "", "calls/s", "p50 ms", "p99 ms", "CPU µs", "RSS MiB")
	result := map[string]float64{}
	run := func(name, field string, fresh bool, start func() (url string, p *os.Process)) {
		url, p := start()
		m := l.measure(url, p.Pid, fresh)
		result[field] = round(m.cpu)
		fmt.Printf("%-22s %10.0f %8.2f %8.2f %10.1f %8.1f\n", name, m.perSecond, m.p50, m.p99, m.cpu, m.rss)
		if field == "warm_cpu_us" {
			result["rss_mib"] = round(m.rss)
		}
	}
	run("bare ReverseProxy", "bare_cpu_us", false, func() (string, *os.Process) { return l.startBare("default") })
	run("bare, tuned", "bare_tuned_cpu_us", false, func() (string, *os.Process) { return l.startBare("tuned") })
	run("verifier, known token", "warm_cpu_us", false, l.startVerifier)
	run("verifier, new tokens", "cold_cpu_us", true, l.startVerifier)
	run("HAProxy, known token", "haproxy_cpu_us", false, l.startHAProxy)
	run("HAProxy, new tokens", "haproxy_new_cpu_us", true, l.startHAProxy)
	result["warm_ratio"] = round(result["warm_cpu_us"] / result["bare_cpu_us"])
	result["warm_ratio_tuned"] = round(result["warm_cpu_us"] / result["bare_tuned_cpu_us"])
	raw, cold := l.signatureChecks()
	result["raw_verify_us"], result["cold_verify_us"], result["cold_ratio"] = round(raw), round(cold), round(cold/raw)
	result["decision_us"], result["decision_allocs"] = decisionFromBench(b)
	result["ready_ms"] = round(l.readyAfter())
	fmt.Printf("%-22s %10.0f ms\n", "start to ready", result["ready_ms"])
	line, err := json.Marshal(result)
	if err != nil {
		b.Fatal(err)
	}
	if out := os.Getenv("HOURPASS_BENCH_OUT"); out != "" {
		if err := os.WriteFile(out, append(line, '\n'), 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

// callLoad sends calls.
type callLoad struct {
	*lone
	b      *testing.B
	model  *httptest.Server
	known  string
	client *http.Client
}

const benchScope = "chat:small embeddings:small"

var benchBody = []byte(`{"model":"small","messages":[{"role":"user","content":"` + strings.Repeat("What is the capital of France? ", 30) + `"}],"max_tokens":100}`)

func newCallLoad(b *testing.B) *callLoad {
	answer := []byte(`{"object":"chat.completion","choices":[{"message":{"content":"` + strings.Repeat("Paris. ", 130) + `"}}]}`)
	l := &callLoad{b: b, lone: newLone(b), client: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 2 * benchClients, MaxConnsPerHost: 2 * benchClients, DisableCompression: true,
	}}}
	l.model = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}))
	b.Cleanup(l.model.Close)
	l.known = l.token(benchScope)
	return l
}

func (l *callLoad) startBare(kind string) (string, *os.Process) {
	path, addr := filepath.Join(l.dir, "bareproxy"), freeAddr(l.b)
	if out, err := exec.Command("go", "build", "-o", path, "./testdata/bareproxy").CombinedOutput(); err != nil {
		l.b.Fatalf("building the bare proxy: %v: %s", err, out)
	}
	return "http://" + addr, run(l.b, "http://"+addr, path, nil, addr, l.model.URL, kind)
}

func (l *callLoad) startVerifier() (string, *os.Process) {
	l.start(fmt.Sprintf(`
upstreams:
  - {name: model, url: %q, models: [small]}
`, l.model.URL))
	return l.url, l.process
}

// readyAfter is how long the verifier takes from its start until it is ready, in
// ms, with the issuer down: keys and revocations are snapshots on the disk. Of
// five times it is the middle one.
func (l *callLoad) readyAfter() float64 {
	const gone = "http://127.0.0.1:1"
	keys, err := json.Marshal(map[string]any{"version": 1, "url": gone + "/jwks.json", "fetched_at": time.Now(), "document": json.RawMessage(l.keySet())})
	if err != nil {
		l.b.Fatal(err)
	}
	doc, err := revocation.Document{Issuer: loneIssuer, Generation: 1, IssuedAt: time.Now()}.Encode()
	if err != nil {
		l.b.Fatal(err)
	}
	l.issuers = fmt.Sprintf(`
issuer: %s
audience: models
key_set: {url: %s/jwks.json, snapshot: %s}
revocations: {url: %s/revocations, snapshot: %s}
`, loneIssuer, gone, l.write("keys-snapshot.json", keys), gone, l.write("revocations.jwt", []byte(l.sign(revocation.Type, doc))))
	var times []float64
	for range 5 {
		began := time.Now()
		l.start(fmt.Sprintf("upstreams:\n  - {name: model, url: %q, models: [small]}\n", l.model.URL))
		times = append(times, float64(time.Since(began).Microseconds())/1000)
		_ = l.process.Signal(syscall.SIGTERM)
	}
	slices.Sort(times)
	return times[2]
}

func (l *callLoad) startHAProxy() (string, *os.Process) {
	public, err := x509.MarshalPKIXPublicKey(&l.key.PublicKey)
	if err != nil {
		l.b.Fatal(err)
	}
	addr := freeAddr(l.b)
	config := l.write("haproxy.cfg", fmt.Appendf(nil, `
defaults
  mode http
  timeout connect 10s
  timeout client 60s
  timeout server 60s
  option http-buffer-request
frontend calls
  bind %s
  http-request set-var(txn.bearer) http_auth_bearer
  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
  http-request set-var(txn.iss) var(txn.bearer),jwt_payload_query('$.iss')
  http-request set-var(txn.aud) var(txn.bearer),jwt_payload_query('$.aud')
  http-request deny unless { var(txn.alg) -m str ES256 }
  http-request deny unless { var(txn.iss) -m str %s }
  http-request deny unless { var(txn.aud) -m str models }
  http-request deny unless { var(txn.bearer),jwt_verify(txn.alg,"%s") -m int 1 }
  default_backend model
backend model
  server model %s
`, addr, loneIssuer, l.write("public.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), strings.TrimPrefix(l.model.URL, "http://")))
	return "http://" + addr, run(l.b, "http://"+addr, "haproxy", nil, "-db", "-f", config)
}

// performance is what was measured of one proxy.
type performance struct {
	perSecond, p50, p99 float64 // The latencies in ms, at 70 % of full load.
	cpu                 float64 // µs of the proxy's process for a call, at full load.
	rss                 float64 // MiB, after the load.
}

func (l *callLoad) measure(url string, pid int, fresh bool) (m performance) {
	tokens := slices.Repeat([]string{l.known}, verifierWarm+verifierFull+verifierSteady)
	if fresh {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(tokens)); i = next.Add(1) - 1 {
					tokens[i] = l.token(benchScope)
				}
			})
		}
		wg.Wait()
	}
	l.run(url, tokens[:verifierWarm], 0)
	before := processCPU(l.b, pid)
	took, _ := l.run(url, tokens[verifierWarm:verifierWarm+verifierFull], 0)
	m.cpu = float64((processCPU(l.b, pid) - before).Microseconds()) / verifierFull
	m.perSecond = verifierFull / took.Seconds()
	_, latencies := l.run(url, tokens[verifierWarm+verifierFull:], time.Duration(float64(took)/verifierFull/0.7))
	slices.Sort(latencies)
	m.p50 = float64(latencies[len(latencies)/2].Microseconds()) / 1000
	m.p99 = float64(latencies[len(latencies)*99/100].Microseconds()) / 1000
	m.rss = residentMiB(l.b, pid)
	return m
}

// run makes one call for each token: with every zero as fast as the clients can,
// otherwise one each every, whatever happened to those before. A latency counts
// from when its call was due.
func (l *callLoad) run(url string, tokens []string, every time.Duration) (took time.Duration, latencies []time.Duration) {
	latencies = make([]time.Duration, len(tokens))
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range benchClients {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(tokens)); i = next.Add(1) - 1 {
				due := time.Now()
				if every > 0 {
					due = began.Add(time.Duration(i) * every)
					time.Sleep(time.Until(due))
				}
				if err := l.call(url, tokens[i]); err != nil {
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

func (l *callLoad) call(url, bearer string) error {
	req, err := http.NewRequest(http.MethodPost, url+"/v1/chat/completions", bytes.NewReader(benchBody))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+bearer)
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

// signatureChecks are the CPU times, in µs, of one bare ES256 verification, and
// of all that is done to a token that was never seen: profile, signature, claims.
func (l *callLoad) signatureChecks() (raw, cold float64) {
	compact := l.known
	signed := compact[:strings.LastIndexByte(compact, '.')]
	digest := sha256.Sum256([]byte(signed))
	signature, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	if err != nil {
		l.b.Fatal(err)
	}
	set, err := jwks.Parse(l.keySet())
	if err != nil {
		l.b.Fatal(err)
	}
	profile := jwks.Profile{Types: []string{token.Type}, Algorithms: []string{jwks.ES256}, ExactHeader: true, MaxBytes: token.MaxBytes}
	expect := token.Expect{Issuer: loneIssuer, Audience: "models", Skew: time.Minute}
	const rounds, turns = 1000, 5
	for range turns { // In turns, and the best of each, as others use the machine too.
		r := perOp(rounds, func() { ecdsa.VerifyASN1(&l.key.PublicKey, digest[:], signature) })
		c := perOp(rounds, func() {
			payload, err := set.Verify(profile, compact)
			if err != nil {
				l.b.Fatal(err)
			}
			claims, err := token.Parse(payload)
			if err == nil {
				err = expect.Check(&claims, time.Now())
			}
			if err != nil {
				l.b.Fatal(err)
			}
		})
		if raw == 0 || r < raw {
			raw = r
		}
		if cold == 0 || c < cold {
			cold = c
		}
	}
	return raw, cold
}

// perOp is the CPU time of one op, in µs.
func perOp(rounds int, op func()) float64 {
	began := ownCPU()
	for range rounds {
		op()
	}
	return float64((ownCPU() - began).Nanoseconds()) / 1000 / float64(rounds)
}

// decisionFromBench runs the verifier's own benchmark of a decision.
func decisionFromBench(b *testing.B) (micros, allocs float64) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkDecision$/^warm$", "-benchmem", "../../verifier")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && strings.HasPrefix(line, "BenchmarkDecision/warm") {
			nanos, _ := strconv.ParseFloat(fields[2], 64)
			allocs, _ = strconv.ParseFloat(fields[6], 64)
			return round(nanos / 1000), allocs
		}
	}
	b.Fatalf("no figure in %s", out)
	return 0, 0
}

// residentMiB is the memory that a process holds (proc(5)).
func residentMiB(b *testing.B, pid int) float64 {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}
