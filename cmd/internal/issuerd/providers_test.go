package issuerd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
	"github.com/hourpass/hourpass/cmd/internal/program"
)

// heading is what a configuration has besides providers and grants.
const heading = `url: https://hourpass.example.com
audiences: [models]
store: var/issuer.db
signing_keys: var/signing-keys.json
key_encryption_key: var/key-encryption-key
pepper: var/pepper
audit: var/issuer-audit.jsonl
`

// workplace is a folder, which becomes the current one, with the files that the
// configurations of these tests and of the documentation name.
func workplace(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true}
	ca, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("var", 0o700); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		"var/client-secret":     "s3cret\n",
		"var/cluster-jwks.json": fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:])),
		"var/ca.pem":            string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})),
		"var/empty":             "",
		"var/large":             strings.Repeat("x", 256<<10+1),
		"var/no-jwks.json":      `{"keys":[]}`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// validate is "hourpass-issuer validate" of a file with that content.
func validate(t *testing.T, config string) error {
	t.Helper()
	if err := os.WriteFile("issuer.yaml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return issuerd.Validate(t.Context(), program.Options{Config: "issuer.yaml", Stdout: io.Discard, Stderr: io.Discard})
}

// folder of the whole module, from this one.
const module = "../../.."

// TestDocumentedProviders: every configuration that the documentation shows is
// accepted, and the examples are those.
func TestDocumentedProviders(t *testing.T) {
	page, err := os.ReadFile(module + "/docs/identity-providers.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := map[string]string{}
	paths, err := filepath.Glob(module + "/deploy/examples/issuer*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		examples[filepath.Base(path)] = string(content)
	}
	if len(examples) != 10 {
		t.Errorf("%d examples, want one of each type and one for all", len(examples))
	}
	workplace(t)
	shown := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(shown) < 11 {
		t.Errorf("the page shows %d configurations, want one for each type", len(shown))
	}
	documented := map[string]bool{}
	for _, block := range shown {
		if err := validate(t, heading+block[1]); err != nil {
			t.Errorf("of the page:\n%s%v", block[1], err)
		}
		for name, content := range examples {
			documented[name] = documented[name] || strings.HasSuffix(content, "\n"+block[1])
		}
	}
	for name, content := range examples {
		if err := validate(t, content); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !documented[name] && name != "issuer.yaml" {
			t.Errorf("%s does not end with a configuration of the page", name)
		}
	}
}

const goodProviders = `providers:
  - name: ci
    type: github
    audiences: [https://hourpass.example.com]
    require: {repository_owner_id: "65"}
  - name: cluster
    type: kubernetes
    issuer: https://kubernetes.default.svc
    jwks_file: var/cluster-jwks.json
    audiences: [hourpass]
  - name: corp
    issuer: https://sso.example.com
    client_id: hourpass
    client_secret: s3cret
    ca_file: var/ca.pem
grants:
  - name: faq
    scopes: [chat:faq-bot]
    members:
      - provider: ci
        claims: {repository_id: "74", ref: "~refs/heads/.*"}
      - provider: corp
        groups: [faq-users]
`

// TestProvidersRefused: each row changes one thing of what is good; the problem
// is told with its line, and with it nothing that was not asked.
func TestProvidersRefused(t *testing.T) {
	workplace(t)
	if err := validate(t, heading+goodProviders); err != nil {
		t.Fatalf("what is good: %v", err)
	}
	for why, row := range map[string]struct {
		old, changed string
		at           string // The line that the problem is told of begins so.
		want         string // In the problem.
	}{
		"GitHub by audience alone":      {`    require: {repository_owner_id: "65"}` + "\n", "", "- name: ci", "providers[0].require: want one of repository_id, repository_owner_id"},
		"GitHub by name":                {`{repository_owner_id: "65"}`, `{repository_owner: octo}`, "require:", "providers[0].require: strangers"},
		"a number without quotes":       {`"65"`, `65`, "require:", "providers[0].require: repository_owner_id: want a text; write numbers in quotes"},
		"a star":                        {`"65"`, `"*"`, "require:", "providers[0].require: repository_owner_id: is exact"},
		"anything":                      {`"65"`, `"~.*"`, "require:", "providers[0].require: repository_owner_id: matches anything"},
		"half a regexp":                 {`"65"`, `"~a)|(b"`, "require:", "providers[0].require: repository_owner_id: is no regular expression"},
		"one alternative unpinned":      {`{repository_owner_id: "65"}`, `[{repository_owner_id: "65"}, {ref: main}]`, "require:", "providers[0].require: strangers"},
		"a list of texts":               {`{repository_owner_id: "65"}`, `[repository_owner_id]`, "require:", "providers[0].require: want claim: value"},
		"no claim at all":               {`{repository_owner_id: "65"}`, `{}`, "require:", "providers[0].require: an alternative that requires nothing"},
		"an unknown type":               {"type: github", "type: githib", "type: githib", "providers[0].type: want one of dex,"},
		"GitHub without its type":       {"type: github", "issuer: https://token.actions.githubusercontent.com", "- name: ci", "providers[0].type: this issuer is known: say type: github"},
		"any audience":                  {"[https://hourpass.example.com]", `["*"]`, "audiences:", "providers[0].audiences: each names one client"},
		"no audience":                   {"    audiences: [hourpass]\n", "", "- name: cluster", "providers[1].audiences: without client_id"},
		"the API server's tokens":       {"[hourpass]", "[https://kubernetes.default.svc]", "audiences:", "providers[1].audiences: tokens for the provider itself"},
		"no such key set":               {"var/cluster-jwks.json", "var/nothing", "jwks_file:", "providers[1].jwks_file: open var/nothing"},
		"a key set without a key":       {"var/cluster-jwks.json", "var/no-jwks.json", "jwks_file:", "providers[1].jwks_file: the key set is refused"},
		"a key set too large":           {"var/cluster-jwks.json", "var/large", "jwks_file:", "providers[1].jwks_file: var/large is larger"},
		"an empty key set":              {"var/cluster-jwks.json", "var/empty", "jwks_file:", "providers[1].jwks_file: var/empty is empty"},
		"keys from two places":          {"    jwks_file:", "    jwks_url: https://x.example.com/keys\n    jwks_file:", "jwks_url:", "providers[1].jwks_url: jwks_file is set too"},
		"keys over plain http":          {"jwks_file: var/cluster-jwks.json", "jwks_url: http://x.example.com/keys", "jwks_url:", "providers[1].jwks_url: keeping a key set"},
		"login where nobody can":        {"    audiences: [hourpass]", "    client_id: x", "client_id:", "providers[1].client_id: nobody logs in"},
		"no such authority":             {"var/ca.pem", "var/nothing", "ca_file:", "providers[2].ca_file: open var/nothing"},
		"an authority that is a key":    {"var/ca.pem", "var/client-secret", "ca_file:", "providers[2].ca_file: var/client-secret holds no certificate"},
		"plain http":                    {"https://sso.example.com", "http://sso.example.com", "issuer:", "providers[2].issuer: want an https URL"},
		"our own tokens":                {"https://sso.example.com", "https://hourpass.example.com", "issuer:", "providers[2].issuer: is our own"},
		"one issuer twice":              {"https://sso.example.com", "https://kubernetes.default.svc", "issuer:", "providers[2].issuer: stands twice"},
		"one name twice":                {"name: corp", "name: ci", "- name: ci", "providers[2].name: stands twice"},
		"one trust domain twice":        {"  - name: corp\n", twoMeshes + "  - name: corp\n", "trust_domain:", "providers[3].trust_domain: stands twice"},
		"one issuer twice, by default":  {"  - name: corp\n", "  - {name: ci2, type: github, audiences: [a], require: {repository_id: \"1\"}}\n  - name: corp\n", "- {name: ci2", "providers[2].issuer: stands twice"},
		"a setting nobody knows":        {"ca_file:", "ca_path:", "ca_path:", "there is no setting ca_path"},
		"an algorithm of shared keys":   {"    ca_file:", "    algorithms: [HS256]\n    ca_file:", "algorithms:", "providers[2].algorithms"},
		"a reserved claim":              {"    ca_file:", "    claims: {may_act: x}\n    ca_file:", "claims:", "providers[2].claims.may_act: is reserved"},
		"an address as subject":         {"    ca_file:", "    subject_claim: email\n    ca_file:", "subject_claim:", "providers[2].subject_claim"},
		"logout tokens":                 {"    ca_file:", "    types: [logout+jwt]\n    ca_file:", "types:", "providers[2].types"},
		"a day and an hour":             {"    ca_file:", "    max_age: 25h\n    ca_file:", "max_age:", "providers[2].max_age: want up to 24h"},
		"six minutes of skew":           {"    ca_file:", "    skew: 6m\n    ca_file:", "skew:", "providers[2].skew: want up to 5m"},
		"members by a name":             {`repository_id: "74"`, `repository: octo/faq`, "- provider: ci", "grants[0].members[0]: anybody can have an account"},
		"members by a regexp":           {`repository_id: "74"`, `repository_id: "~7."`, "- provider: ci", "grants[0].members[0]: anybody can have an account"},
		"members by group, at GitHub":   {`claims: {repository_id: "74", ref: "~refs/heads/.*"}`, "groups: [octo]", "- provider: ci", "grants[0].members[0]: anybody can have an account"},
		"members by a claim nobody has": {`repository_id: "74"`, `repository_id: "74", repo_id: "74"`, "claims:", `maps no claim "repo_id"`},
		"members by anything":           {`"~refs/heads/.*"`, `"~.*"`, "claims:", "matches anything"},
		"members by all subjects":       {"groups: [faq-users]", `subjects: ["*"]`, "- provider: corp", "grants[0].members[1]: subjects: each is the whole text"},
		"members who are nobody":        {"groups: [faq-users]", `groups: []`, "- provider: corp", "grants[0].members[1]: want groups, subjects or claims"},
		"members of nobody's provider":  {"- provider: corp", "- provider: korp", "- provider: korp", "grants[0].members[1].provider: want one of [ci cluster corp]"},
	} {
		config := heading + strings.Replace(goodProviders, row.old, row.changed, 1)
		err := validate(t, config)
		if err == nil {
			t.Errorf("%s: accepted", why)
			continue
		}
		if !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v\nwant it to speak of %q", why, err, row.want)
		}
		for problem := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.Contains(problem, row.want) {
				continue
			}
			var line int
			if _, err := fmt.Sscanf(problem, "issuer.yaml:%d:", &line); err != nil {
				t.Errorf("%s: %q has no line", why, problem)
			} else if text := strings.TrimSpace(strings.Split(config, "\n")[line-1]); !strings.HasPrefix(text, row.at) {
				t.Errorf("%s: told of the line %q, want one that begins with %q", why, text, row.at)
			}
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the secret is in %v", why, err)
		}
	}
}

const twoMeshes = `  - {name: mesh, type: spiffe, trust_domain: acme.com, jwks_url: "https://a.example.com", audiences: [a]}
  - name: mesh2
    type: spiffe
    issuer: https://spire.example.com
    audiences: [a]
    trust_domain: acme.com
`

// TestCAFile: a provider's own authorities vouch for it, and no others.
func TestCAFile(t *testing.T) {
	workplace(t)
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // Of handshakes that are meant to fail.
	srv.StartTLS()
	defer srv.Close()
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile("var/own.pem", own, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{"var/own.pem": true, "var/ca.pem": false} {
		transport, err := issuerd.Trusting(file)
		if err != nil {
			t.Fatal(err)
		}
		res, err := (&http.Client{Transport: transport}).Get(srv.URL)
		if err == nil {
			res.Body.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: asking the provider: %v, want an answer %v", file, err, want)
		}
	}
}
