package e2e

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
)

// exchangeSuite are the tests of logins, exchanges, keys and revocation that hold
// whatever the issuers keep their state in, and however many they are. What
// counts within one process, such as rates, is not among them.
var exchangeSuite = []string{
	"TestGrantsAndFactors", "TestIdentitiesEnd", "TestCapExpiry", "TestOneFactorAlone", "TestDisabledKey", "TestIdentityTokensThatProveNothing",
	"TestGroupsLeftOut", "TestTokenRequests", "TestReplay", "TestReplayInParallel", "TestRestart", "TestNoAuditNoToken", "TestSignedClients", "TestSignedInParallel",
	"TestDevice", "TestDeviceRefused", "TestDeviceBrowsers", "TestDeviceRows", "TestAuthorizeRefuses", "TestCallback", "TestLoginCookie", "TestRedeemCode",
	"TestSession", "TestLeaver", "TestFreshLogin", "TestGrantLimits", "TestSessionsStayInTheirRows", "TestNarrow", "TestNarrowRefuses", "TestResources",
	"TestIntrospect", "TestRevokeLogin", "TestRevokedInTime", "TestCutOff", "TestLeakedKey", "TestThirdImplementations",
}

// TestTwoIssuers runs the suite again on two issuers behind a round robin, which
// share one PostgreSQL: every other request of a story goes to the other one.
func TestTwoIssuers(t *testing.T) {
	t.Parallel()
	again(t, "replicas", exchangeSuite)
}

// TestOnPostgres runs what is about durability again on one issuer with
// PostgreSQL; two issuers have it too.
func TestOnPostgres(t *testing.T) {
	t.Parallel()
	again(t, "postgres", []string{"TestCrashes", "TestKill", "TestReplayInParallel", "TestRestart", "TestNoAuditNoToken"})
}

// again runs tests of this program on another engine, in a process of their own.
func again(t *testing.T, on string, tests []string) {
	if engine != "" {
		return // This is that process.
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^("+strings.Join(tests, "|")+")$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "HOURPASS_TEST_STORE="+on)
	out, err := cmd.CombinedOutput()
	for _, name := range tests {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass", name)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v: %s", err, out)
	}
}

// replica is one of two issuers behind a round robin.
type replica struct{ name, url, ops string }

// startRoundRobin puts a proxy in the issuer's place, which sends each request to
// the next of two replicas, and one before their readiness, which is that of the
// worse.
func (h *house) startRoundRobin() {
	h.t.Helper()
	for _, name := range []string{"issuer", "issuer-2"} {
		h.replicas = append(h.replicas, replica{name, "http://" + freeAddr(h.t), "http://" + freeAddr(h.t)})
	}
	var next atomic.Int64
	serveAt(h.t, strings.TrimPrefix(h.issuer, "http://"), &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			to, _ := url.Parse(h.replicas[next.Add(1)%2].url)
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.SetXForwarded()
		},
		FlushInterval: -1,
	})
	serveAt(h.t, strings.TrimPrefix(h.issuerOps, "http://"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		worst, text := http.StatusOK, ""
		for _, r := range h.replicas {
			status, body := h.readyz(r.ops)
			if text += body; status != http.StatusOK {
				worst = http.StatusServiceUnavailable
			}
		}
		w.WriteHeader(worst)
		_, _ = w.Write([]byte(text))
	}))
}

// writeReplicas writes the configurations of the replicas, which differ in their
// addresses and audit logs alone.
func (h *house) writeReplicas(config string) {
	addr := func(u string) string { return strings.TrimPrefix(u, "http://") }
	for _, r := range h.replicas {
		text := strings.NewReplacer(
			"listen: "+addr(h.issuer)+"\n", "listen: "+addr(r.url)+"\n", "ops_listen: "+addr(h.issuerOps)+"\n", "ops_listen: "+addr(r.ops)+"\n",
			"/issuer-audit.jsonl", "/"+r.name+"-audit.jsonl",
		).Replace(config) + "trusted_proxies: [127.0.0.0/8]\n"
		if err := os.WriteFile(filepath.Join(h.dir, r.name+".yaml"), []byte(text), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
}

// startIssuer starts the issuer, or all of its replicas.
func (h *house) startIssuer() {
	if len(h.replicas) == 0 {
		h.start("issuer", issuerd.Run)
	}
	for _, r := range h.replicas {
		h.start(r.name, issuerd.Run)
	}
}

func (h *house) stopIssuer() {
	h.stop("issuer")
	h.stop("issuer-2")
}
