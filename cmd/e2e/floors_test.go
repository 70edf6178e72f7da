package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hourpass/hourpass/"

// ground is what every room may stand on: floor 0, and which of it stands on
// which.
var ground = map[string][]string{
	"internal/strictjson": {},
	"internal/reqtarget":  {},
	"internal/audit":      {"internal/strictjson"},
	"internal/alert":      {"internal/seal", "go-mail"},
	"internal/seal":       {},
	"internal/config":     {"yaml"},
	"internal/serve":      {"sync"},
	"internal/reply":      {},
	"internal/store":      {"sqlite", "pgx", "goose"},
	"internal/clientip":   {},
	"internal/token":      {"internal/strictjson"},
	"internal/revocation": {"internal/token", "internal/strictjson"},
	"internal/policy":     {"internal/token"},
	"internal/ledger":     {"internal/token"},
	"internal/usage":      {},
	"internal/watch":      {},
	"internal/peers":      {"chromedp", "pgx"}, // Test support: no program links it.
}

// floors says what each room may import of this module and of other people's.
// "ground" is all of floor 0. Siblings never import one another, and a room that
// is not listed may import nothing.
var floors = map[string][]string{
	"internal/store/storetest": {"internal/store", "internal/peers"}, // Test support: no program links it.

	"internal/ledger/sqlledger":   {"internal/ledger", "internal/store"},
	"internal/ledger/redisledger": {"internal/ledger", "rueidis"},
	"internal/ledger/remote":      {"internal/ledger"},
	"internal/ledger/ledgertest":  {"internal/ledger", "rapid"}, // Test support: no program links it.

	"issuer":                   {"ground", "internal/ledger/remote", "mux", "oauth2", "sync", "issuer/internal/idp", "issuer/internal/pages", "issuer/internal/throttle"},
	"issuer/internal/idp":      {"ground", "go-oidc", "oauth2"},
	"issuer/internal/pages":    {},
	"issuer/internal/throttle": {"golang-lru"},
	"keys":                     {"ground", "keys/format", "golang-lru"},
	"keys/format":              {},
	"jwks":                     {"ground", "jwx", "jwks/internal/disk"},
	"jwks/internal/disk":       {},
	"jwks/ring":                {"ground", "jwx", "jwks/internal/disk"},
	"jwks/ring/pkcs11":         {"jwks/ring", "pkcs11"},
	"verifier": {
		"ground", "mux", "golang-lru", "prometheus", "websocket",
		"verifier/internal/refusal", "verifier/internal/route", "verifier/internal/body", "verifier/internal/upstream", "verifier/internal/assertion",
		"verifier/internal/budget", "verifier/internal/meter",
	},
	"verifier/extauthz":           {"verifier", "grpc"},
	"verifier/internal/refusal":   {"ground"},
	"verifier/internal/route":     {"ground"},
	"verifier/internal/body":      {"ground", "verifier/internal/refusal", "verifier/internal/route", "brotli", "zstd"},
	"verifier/internal/upstream":  {"ground", "verifier/internal/assertion", "verifier/internal/route"},
	"verifier/internal/assertion": {},
	"verifier/internal/budget":    {"ground"},
	"verifier/internal/meter":     {"verifier/internal/route"},

	"cmd/internal/program":   {"ground", "cobra"},
	"cmd/internal/issuerd":   {"ground", "internal/ledger/sqlledger", "internal/ledger/redisledger", "cmd/internal/program", "issuer", "keys", "jwks", "jwks/ring", "jwks/ring/pkcs11", "sync"},
	"cmd/internal/verifierd": {"ground", "internal/ledger/redisledger", "internal/ledger/remote", "cmd/internal/program", "verifier", "jwks", "keys/format", "sync", "prometheus", "verifier/extauthz"},
	"cmd/internal/toyidp":    {"zitadel", "go-jose"},
	"cmd/internal/toymodel":  {},
	"cmd/hourpass":           {"ground", "cmd/internal/program", "keys/format", "oauth2", "cobra", "lockedfile"},
	"cmd/hourpass-issuer":    {"cmd/internal/program", "cmd/internal/issuerd", "cobra"},
	"cmd/hourpass-verifier":  {"cmd/internal/program", "cmd/internal/verifierd", "cobra"},
	"cmd/hourpass-dev":       {"ground", "cmd/internal/program", "cmd/internal/issuerd", "cmd/internal/verifierd", "cmd/internal/toyidp", "cmd/internal/toymodel", "cobra", "oauth2", "sync", "term"},
	"cmd/e2e":                {},
}

// libraries are the doors: each is on the list of dependencies in docs.
var libraries = map[string]string{
	"go.yaml.in/yaml/":                           "yaml",
	"golang.org/x/sync/":                         "sync",
	"golang.org/x/term":                          "term",
	"golang.org/x/oauth2":                        "oauth2",
	"modernc.org/sqlite":                         "sqlite",
	"github.com/jackc/pgx/v5":                    "pgx",
	"github.com/pressly/goose/":                  "goose",
	"github.com/chromedp/":                       "chromedp",
	"github.com/gorilla/mux":                     "mux",
	"github.com/coder/websocket":                 "websocket",
	"github.com/envoyproxy/go-control-plane/":    "grpc",
	"google.golang.org/genproto/":                "grpc",
	"google.golang.org/grpc":                     "grpc",
	"github.com/prometheus/client_golang/":       "prometheus",
	"github.com/miekg/pkcs11":                    "pkcs11",
	"github.com/coreos/go-oidc/":                 "go-oidc",
	"github.com/lestrrat-go/jwx/v2/":             "jwx",
	"github.com/hashicorp/golang-lru/":           "golang-lru",
	"github.com/spf13/cobra":                     "cobra",
	"github.com/zitadel/oidc/":                   "zitadel",
	"github.com/go-jose/go-jose/":                "go-jose",
	"github.com/rogpeppe/go-internal/lockedfile": "lockedfile",
	"github.com/klauspost/compress/zstd":         "zstd",
	"github.com/andybalholm/brotli":              "brotli",
	"github.com/redis/rueidis":                   "rueidis",
	"github.com/wneessen/go-mail":                "go-mail",
	"pgregory.net/rapid":                         "rapid",
}

func TestFloors(t *testing.T) {
	rooms := map[string][]string{}
	for room, may := range ground {
		rooms[room] = may
	}
	for room, may := range floors {
		if slices.Contains(may, "ground") {
			for below := range ground {
				if below != "internal/peers" {
					may = append(may, below)
				}
			}
		}
		rooms[room] = may
	}
	seen := map[string]bool{}
	for _, line := range goList(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...") {
		fields := strings.Fields(line)
		room := strings.TrimPrefix(fields[0], module)
		may, known := rooms[room]
		if !known {
			t.Errorf("%s is not on the list of rooms: say on which floor it stands", room)
		}
		seen[room] = true
		for _, imported := range fields[1:] {
			name, ours := strings.CutPrefix(imported, module)
			if !ours {
				if !strings.Contains(strings.Split(imported, "/")[0], ".") {
					continue // The standard library.
				}
				name = door(imported)
			}
			if !slices.Contains(may, name) {
				t.Errorf("%s may not import %s", room, imported)
			}
		}
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("%s is on the list of rooms and not there", room)
		}
	}
}

func door(imported string) string {
	for prefix, name := range libraries {
		if strings.HasPrefix(imported, prefix) {
			return name
		}
	}
	return "(not on the list) " + imported
}

// TestVerifierIsLight: it runs beside every model server, so it holds none of the
// issuer's private keys, no machine key and no database, whatever its configuration.
func TestVerifierIsLight(t *testing.T) {
	links(t, "cmd/hourpass-verifier", module+"jwks/ring", module+"keys", module+"issuer", module+"internal/store",
		module+"internal/policy", module+"internal/seal", "database/sql", "modernc.org/sqlite", "github.com/jackc/pgx/v5", "github.com/coreos/go-oidc/v3/oidc")
}

// TestPeopleLinkNoServer: their program is a client.
func TestPeopleLinkNoServer(t *testing.T) {
	links(t, "cmd/hourpass", module+"issuer", module+"verifier", module+"jwks", module+"internal/store", "modernc.org/sqlite", "github.com/jackc/pgx/v5")
}

// TestToysStayInTheTwin: no program of production links them, nor test support.
func TestToysStayInTheTwin(t *testing.T) {
	for _, program := range []string{"cmd/hourpass", "cmd/hourpass-issuer", "cmd/hourpass-verifier"} {
		links(t, program, module+"cmd/internal/toyidp", module+"cmd/internal/toymodel", module+"internal/peers", module+"internal/store/storetest", "testing")
	}
}

// links fails if the program links one of what it must not.
func links(t *testing.T, program string, never ...string) {
	t.Helper()
	deps := goList(t, "-deps", module+program)
	if len(deps) < 50 {
		t.Fatalf("%s has only %d dependencies: is the list right?", program, len(deps))
	}
	for _, bad := range never {
		if slices.Contains(deps, bad) {
			t.Errorf("%s links %s", program, bad)
		}
	}
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-tags", "pkcs11"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
