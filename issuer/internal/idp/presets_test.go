package idp_test

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// A vendor is a provider as its makers document it: a configuration, a token of
// theirs, what identity that is, and what must not be one.
type vendor struct {
	config  idp.Config
	token   string
	subject string
	claims  map[string]string
	groups  []string

	good    map[string]func(*idToken)    // Still accepted, as the same subject unless it changes that.
	refused map[string]func(*idToken)    // What spoils the token.
	load    map[string]func(*idp.Config) // What spoils the configuration.

	survives []string // Of anyToken.
}

func exactly(texts ...string) []policy.Pattern {
	var list []policy.Pattern
	for _, t := range texts {
		p, err := policy.ParsePattern(t)
		if err != nil {
			panic(err)
		}
		list = append(list, p)
	}
	return list
}

func set(name string, value any) func(*idToken) { return func(t *idToken) { t.claims[name] = value } }

func drop(name string) func(*idToken) { return func(t *idToken) { delete(t.claims, name) } }

func head(name string, value any) func(*idToken) { return func(t *idToken) { t.header[name] = value } }

func require(r ...idp.Requirement) func(*idp.Config) {
	return func(c *idp.Config) { c.Require = r }
}

const (
	tenant = "aaaabbbb-0000-cccc-1111-dddd2222eeee"
	oid    = "00aa00aa-bb11-cc22-dd33-44ee44ee44ee"
	saUID  = "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"
)

var vendors = map[string]vendor{
	"github": {
		config: idp.Config{Type: "github", Audiences: []string{"hourpass"}, Require: []idp.Requirement{{"repository_owner_id": exactly("65")}}},
		token: `{"header": {"typ": "JWT", "alg": "RS256", "x5t": "example-thumbprint"}, "claims": {
			"jti": "example-id", "sub": "repo:octo-org/octo-repo:environment:prod", "environment": "prod", "aud": "hourpass",
			"ref": "refs/heads/main", "sha": "example-sha", "repository": "octo-org/octo-repo", "repository_owner": "octo-org",
			"actor_id": "12", "repository_visibility": "private", "repository_id": "74", "repository_owner_id": "65",
			"run_id": "example-run-id", "run_number": "10", "run_attempt": "2", "runner_environment": "github-hosted",
			"actor": "octocat", "workflow": "example-workflow", "head_ref": "", "base_ref": "", "event_name": "workflow_dispatch",
			"ref_type": "branch", "job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main",
			"iss": "https://token.actions.githubusercontent.com", "nbf": 1789999000}}`,
		subject: "repo:octo-org/octo-repo:environment:prod",
		claims: map[string]string{
			"repository": "octo-org/octo-repo", "repository_id": "74", "repository_owner": "octo-org", "repository_owner_id": "65",
			"repository_visibility": "private", "ref": "refs/heads/main", "ref_type": "branch", "environment": "prod", "event_name": "workflow_dispatch",
			"job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main", "actor_id": "12", "runner_environment": "github-hosted",
		},
		good: map[string]func(*idToken){
			"the subject with ids": set("sub", "repo:octo-org@65/octo-repo@74:environment:prod"),
		},
		refused: map[string]func(*idToken){
			"another owner":                     set("repository_owner_id", "66"),
			"the owner's name registered again": func(t *idToken) { t.claims["repository_owner_id"], t.claims["repository_id"] = "9065", "9074" },
			"an owner id that begins alike":     set("repository_owner_id", "650"),
			"no owner id":                       drop("repository_owner_id"),
			"the subject with ids, of another's owner": func(t *idToken) {
				t.claims["sub"], t.claims["repository_owner_id"] = "repo:octo-org@65/octo-repo@74:environment:prod", "66"
			},
			"the default audience, the owner's address": set("aud", "https://github.com/octo-org"),
			"no typ":             func(t *idToken) { delete(t.header, "typ") },
			"eleven minutes old": set("iat", moment.Add(-11*time.Minute).Unix()),
		},
		load: map[string]func(*idp.Config){
			"aud only":               require(),
			"a pin by name":          require(idp.Requirement{"repository_owner": exactly("octo-org")}),
			"a pin by the subject":   require(idp.Requirement{"sub": exactly("repo:octo-org/octo-repo:ref:refs/heads/main")}),
			"a pin that is a regexp": require(idp.Requirement{"repository_owner_id": exactly("~6.")}),
			"one of two is a regexp": require(idp.Requirement{"repository_owner_id": exactly("65", "~6.")}),
			"one way without a pin":  require(idp.Requirement{"repository_owner_id": exactly("65")}, idp.Requirement{"ref": exactly("refs/heads/main")}),
			"browser login":          func(c *idp.Config) { c.ClientID = "x" },
			"under another type": func(c *idp.Config) {
				c.Type, c.Issuer = "oidc", "https://token.actions.githubusercontent.com"
			},
			"an enterprise's, aud only": func(c *idp.Config) {
				c.Issuer, c.Require = "https://token.actions.githubusercontent.com/octocorp", nil
			},
		},
	},

	"gitlab": {
		config: idp.Config{Type: "gitlab", Audiences: []string{"https://hourpass.example.com"}, Require: []idp.Requirement{{"namespace_id": exactly("72")}}},
		token: `{"header": {"typ": "JWT", "alg": "RS256"}, "claims": {
			"namespace_id": "72", "namespace_path": "my-group", "project_id": "20", "project_path": "my-group/my-project", "user_id": "1",
			"user_login": "sample-user", "user_email": "sample-user@example.com", "groups_direct": ["my-group/admins"], "pipeline_id": "574",
			"pipeline_source": "push", "job_id": "302", "ref": "feature-branch-1", "ref_type": "branch", "ref_path": "refs/heads/feature-branch-1",
			"ref_protected": "false", "environment": "test-environment2", "environment_protected": "false", "runner_id": 1,
			"runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "public",
			"ci_config_ref_uri": "gitlab.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main", "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
			"iss": "https://gitlab.com", "nbf": 1789999000, "sub": "project_path:my-group/my-project:ref_type:branch:ref:feature-branch-1",
			"aud": "https://hourpass.example.com"}}`,
		subject: "project_path:my-group/my-project:ref_type:branch:ref:feature-branch-1",
		claims: map[string]string{
			"project_id": "20", "project_path": "my-group/my-project", "namespace_id": "72", "namespace_path": "my-group", "ref": "feature-branch-1",
			"ref_type": "branch", "ref_protected": "false", "environment": "test-environment2", "environment_protected": "false", "pipeline_source": "push",
			"ci_config_ref_uri": "gitlab.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main", "user_id": "1", "runner_environment": "self-hosted",
		},
		refused: map[string]func(*idToken){
			"another namespace":               set("namespace_id", "73"),
			"the path registered again":       func(t *idToken) { t.claims["namespace_id"], t.claims["project_id"] = "9072", "9020" },
			"a person's, of no namespace":     func(t *idToken) { delete(t.claims, "namespace_id"); t.claims["sub"] = "1" },
			"another audience":                set("aud", "https://vault.example.com"),
			"for another audience too":        set("aud", []string{"https://hourpass.example.com", "https://vault.example.com"}),
			"of another GitLab":               set("iss", "https://gitlab.example.com"),
			"signed with another algorithm":   func(t *idToken) { t.header["alg"], t.header["kid"], t.kid = "ES256", "e", "e" },
			"a namespace id that is a list":   set("namespace_id", []any{map[string]any{}, "72"}),
			"a mapped claim that is a list":   set("ref", []string{"main"}),
			"a mapped claim that is too long": set("ref", strings.Repeat("x", policy.MaxClaim+1)),
		},
		load: map[string]func(*idp.Config){
			"aud only":          require(),
			"a pin by path":     require(idp.Requirement{"namespace_path": exactly("my-group")}),
			"a pin by aud":      require(idp.Requirement{"aud": exactly("https://hourpass.example.com")}),
			"mapped twice":      func(c *idp.Config) { c.Claims = map[string]string{"project_id": "project_path"} },
			"for GitLab itself": func(c *idp.Config) { c.Audiences = []string{"https://gitlab.com"} },
		},
	},

	"kubernetes": {
		config: idp.Config{Type: "kubernetes", Issuer: "https://kubernetes.default.svc", Audiences: []string{"hourpass"}},
		token: `{"header": {"alg": "RS256"}, "claims": {
			"aud": ["hourpass"], "iss": "https://kubernetes.default.svc", "jti": "ed9eab79-9dd4-4b4d-a2f4-cce8b4c5d6a5",
			"kubernetes.io": {"namespace": "my-namespace", "node": {"name": "my-node", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
				"pod": {"name": "my-pod", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
				"serviceaccount": {"name": "my-serviceaccount", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"}, "warnafter": 1790000100},
			"nbf": 1789999000, "sub": "system:serviceaccount:my-namespace:my-serviceaccount"}}`,
		subject: "system:serviceaccount:my-namespace:my-serviceaccount",
		claims: map[string]string{
			"namespace": "my-namespace", "serviceaccount": "my-serviceaccount", "serviceaccount_uid": saUID, "pod": "my-pod",
			"pod_uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3", "node": "my-node",
		},
		good: map[string]func(*idToken){
			"bound to no pod": func(t *idToken) {
				delete(t.nested("kubernetes.io"), "pod")
			},
		},
		refused: map[string]func(*idToken){
			"for the API server":        set("aud", []string{"https://kubernetes.default.svc"}),
			"for the API server too":    set("aud", []string{"hourpass", "https://kubernetes.default.svc"}),
			"of the old kind":           drop("kubernetes.io"),
			"without the account's uid": func(t *idToken) { delete(t.nested("kubernetes.io", "serviceaccount"), "uid") },
			"an empty uid":              func(t *idToken) { t.nested("kubernetes.io", "serviceaccount")["uid"] = "" },
			"of another cluster":        set("iss", "https://kubernetes.default.svc.cluster.local"),
		},
		load: map[string]func(*idp.Config){
			"no issuer":                    func(c *idp.Config) { c.Issuer = "" },
			"tokens for the API server":    func(c *idp.Config) { c.Audiences = []string{"https://kubernetes.default.svc"} },
			"browser login":                func(c *idp.Config) { c.ClientID = "x" },
			"a key set that is none":       func(c *idp.Config) { c.JWKS = []byte(`{"keys":[]}`) },
			"a private key in the key set": func(c *idp.Config) { k := publicJWK("e", "sig"); k["d"] = "AA"; c.JWKS = keySet(k) },
		},
	},

	"spiffe": {
		survives: []string{"not saying when it was made"}, // JWT-SVID does not ask for it.
		config: idp.Config{
			Type: "spiffe", TrustDomain: "prod.acme.com", Audiences: []string{"hourpass", "spiffe://prod.acme.com/hourpass"},
			JWKS: keySet(publicJWK("e", "jwt-svid"), publicJWK("r", "x509-svid")),
		},
		token:   `{"header": {"alg": "ES256", "typ": "JWT"}, "claims": {"aud": ["hourpass"], "sub": "spiffe://prod.acme.com/ns/ml/sa/batch"}}`,
		subject: "spiffe://prod.acme.com/ns/ml/sa/batch",
		good: map[string]func(*idToken){
			"no typ":          func(t *idToken) { delete(t.header, "typ") },
			"typ JOSE":        head("typ", "JOSE"),
			"no iat":          drop("iat"),
			"an iss of SPIRE": set("iss", "https://oidc.prod.acme.com"),
			"aud as a text":   set("aud", "hourpass"),
		},
		refused: map[string]func(*idToken){
			"another trust domain":        set("sub", "spiffe://dev.acme.com/ns/ml/sa/batch"),
			"a trust domain within":       set("sub", "spiffe://evil.prod.acme.com/ns/ml/sa/batch"),
			"the trust domain itself":     set("sub", "spiffe://prod.acme.com"),
			"an empty path":               set("sub", "spiffe://prod.acme.com/"),
			"dots in the path":            set("sub", "spiffe://prod.acme.com/ns/../sa/batch"),
			"an encoded path":             set("sub", "spiffe://prod.acme.com/ns%2Fml"),
			"an address":                  set("sub", "https://prod.acme.com/ns/ml/sa/batch"),
			"two audiences, both ours":    set("aud", []string{"hourpass", "spiffe://prod.acme.com/hourpass"}),
			"another audience too":        set("aud", []string{"hourpass", "billing"}),
			"no audience":                 drop("aud"),
			"no exp":                      drop("exp"),
			"neither iat nor an end soon": func(t *idToken) { delete(t.claims, "iat"); t.claims["exp"] = moment.Add(2 * time.Hour).Unix() },
			"signed by a key for certificates": func(t *idToken) {
				t.header["alg"], t.header["kid"], t.kid = "RS256", "r", "r"
			},
		},
		load: map[string]func(*idp.Config){
			"no trust domain":   func(c *idp.Config) { c.TrustDomain = "" },
			"an id for it":      func(c *idp.Config) { c.TrustDomain = "spiffe://prod.acme.com" },
			"capital letters":   func(c *idp.Config) { c.TrustDomain = "Prod.acme.com" },
			"only certificates": func(c *idp.Config) { c.JWKS = keySet(publicJWK("r", "x509-svid")) },
			"no keys":           func(c *idp.Config) { c.JWKS = nil },
		},
	},

	"entra": {
		config: idp.Config{Type: "entra", Tenant: tenant, Audiences: []string{"11112222-bbbb-3333-cccc-4444dddd5555"}},
		token: `{"header": {"typ": "JWT", "alg": "RS256"}, "claims": {
			"aud": "11112222-bbbb-3333-cccc-4444dddd5555", "iss": "https://login.microsoftonline.com/aaaabbbb-0000-cccc-1111-dddd2222eeee/v2.0",
			"nbf": 1789999000, "idp": "https://sts.windows.net/aaaabbbb-0000-cccc-1111-dddd2222eeee/", "name": "Casey Jensen",
			"oid": "00aa00aa-bb11-cc22-dd33-44ee44ee44ee", "preferred_username": "casey@contoso.com", "rh": "0.AAAA", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
			"tid": "aaaabbbb-0000-cccc-1111-dddd2222eeee", "uti": "abc", "ver": "2.0", "groups": ["22cc22cc-dd33-ee44-ff55-66aa66aa66aa"]}}`,
		subject: oid,
		claims:  map[string]string{"tid": tenant, "oid": oid},
		groups:  []string{"22cc22cc-dd33-ee44-ff55-66aa66aa66aa"},
		refused: map[string]func(*idToken){
			"another tenant's issuer": set("iss", "https://login.microsoftonline.com/bbbbcccc-1111-dddd-2222-eeee3333ffff/v2.0"),
			"another tid":             set("tid", "bbbbcccc-1111-dddd-2222-eeee3333ffff"),
			"no tid":                  drop("tid"),
			"no oid":                  drop("oid"),
			"an access token of a person": func(t *idToken) {
				t.claims["scp"] = "access_as_user"
			},
			"an access token of an application": func(t *idToken) {
				t.claims["azp"], t.claims["azpacr"] = "11112222-bbbb-3333-cccc-4444dddd5555", "1"
			},
			"of the old endpoint": set("iss", "https://sts.windows.net/aaaabbbb-0000-cccc-1111-dddd2222eeee/"),
		},
		load: map[string]func(*idp.Config){
			"common":        func(c *idp.Config) { c.Tenant = "common" },
			"organizations": func(c *idp.Config) { c.Tenant = "organizations" },
			"consumers":     func(c *idp.Config) { c.Tenant = "9188040d-6c67-4c5b-b112-36a304b66dad" },
			"a domain":      func(c *idp.Config) { c.Tenant = "contoso.com" },
			"common's issuer": func(c *idp.Config) {
				c.Tenant, c.Issuer = "", "https://login.microsoftonline.com/common/v2.0"
			},
			"the issuer of another tenant": func(c *idp.Config) {
				c.Issuer = "https://login.microsoftonline.com/bbbbcccc-1111-dddd-2222-eeee3333ffff/v2.0"
			},
			"the address as subject": func(c *idp.Config) { c.SubjectClaim = "upn" },
			"no type": func(c *idp.Config) {
				c.Type, c.Tenant, c.Issuer = "", "", "https://login.microsoftonline.com/"+tenant+"/v2.0"
			},
			"no type, the old endpoint": func(c *idp.Config) {
				c.Type, c.Tenant, c.Issuer = "", "", "https://sts.windows.net/"+tenant+"/"
			},
		},
	},

	"entra, an application's access token": {
		survives: []string{"an access token (RFC 9068)"},
		config: idp.Config{
			Type: "entra", Tenant: tenant, Audiences: []string{"11112222-bbbb-3333-cccc-4444dddd5555"},
			AccessTokens: true, AuthorizedParties: []string{"00001111-aaaa-2222-bbbb-3333cccc4444"},
		},
		token: `{"header": {"typ": "JWT", "alg": "RS256"}, "claims": {
			"aud": "11112222-bbbb-3333-cccc-4444dddd5555", "iss": "https://login.microsoftonline.com/aaaabbbb-0000-cccc-1111-dddd2222eeee/v2.0",
			"nbf": 1789999000, "aio": "E2Zg", "azp": "00001111-aaaa-2222-bbbb-3333cccc4444", "azpacr": "1", "idtyp": "app",
			"oid": "00aa00aa-bb11-cc22-dd33-44ee44ee44ee", "rh": "0.A", "roles": ["Tokens.Exchange"], "sub": "00aa00aa-bb11-cc22-dd33-44ee44ee44ee",
			"tid": "aaaabbbb-0000-cccc-1111-dddd2222eeee", "uti": "abc", "ver": "2.0"}}`,
		subject: oid,
		claims:  map[string]string{"tid": tenant, "oid": oid, "idtyp": "app"},
		refused: map[string]func(*idToken){
			"another application": set("azp", "22223333-cccc-4444-dddd-5555eeee6666"),
			"for another API":     set("aud", "00000003-0000-0000-c000-000000000000"),
			"another tid":         set("tid", "bbbbcccc-1111-dddd-2222-eeee3333ffff"),
			"bound to a key":      set("cnf", map[string]any{"jkt": "x"}),
		},
	},

	"okta": {
		config: idp.Config{Type: "okta", Issuer: "https://acme.okta.com", Audiences: []string{"uAaunofWkaDJxukCFeBx"}},
		token: `{"header": {"alg": "RS256"}, "claims": {
			"ver": 1, "sub": "00uid4BxXw6I6TV4m0g3", "iss": "https://acme.okta.com", "aud": "uAaunofWkaDJxukCFeBx", "amr": ["pwd", "mfa"],
			"jti": "ID.4eAWJOCMB3SX8XewDfVR", "auth_time": 1789990000, "at_hash": "cpqKfdQA5eH891Ff5oJr_Q", "name": "John Doe", "email": "john@acme.com",
			"preferred_username": "john@acme.com", "idp": "00ok1u7AsAkrwdZL3z0g", "groups": ["Everyone", "ml-users"]}}`,
		subject: "00uid4BxXw6I6TV4m0g3",
		groups:  []string{"Everyone", "ml-users"},
		refused: map[string]func(*idToken){
			"an access token": func(t *idToken) {
				t.claims["cid"], t.claims["uid"], t.claims["scp"] = "uAaunofWkaDJxukCFeBx", "00uid4BxXw6I6TV4m0g3", []string{"openid"}
				t.claims["sub"] = "john@acme.com"
			},
			"an access token of a client": set("cid", "uAaunofWkaDJxukCFeBx"),
			"for the org itself":          set("aud", "https://acme.okta.com"),
			"another org":                 set("iss", "https://emca.okta.com"),
			"groups as one text":          set("groups", "ml-users"),
		},
		load: map[string]func(*idp.Config){
			"no issuer":             func(c *idp.Config) { c.Issuer = "" },
			"the org's own tokens":  func(c *idp.Config) { c.Audiences = []string{"https://acme.okta.com"} },
			"an address as subject": func(c *idp.Config) { c.SubjectClaim = "preferred_username" },
		},
	},

	"google, a person": {
		survives: []string{"asked for by its subject"},
		config: idp.Config{Type: "google", Audiences: []string{"1234987819200.apps.googleusercontent.com"}, Require: []idp.Requirement{
			{"hd": exactly("acme.com")}, {"/google/compute_engine/project_number": exactly("739419398126")},
		}},
		token: `{"header": {"alg": "RS256", "typ": "JWT"}, "claims": {
			"iss": "https://accounts.google.com", "azp": "1234987819200.apps.googleusercontent.com", "aud": "1234987819200.apps.googleusercontent.com",
			"sub": "10769150350006150715113082367", "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "hd": "acme.com", "email": "jsmith@acme.com", "email_verified": true}}`,
		subject: "10769150350006150715113082367",
		claims:  map[string]string{"hd": "acme.com"},
		refused: map[string]func(*idToken){
			"another Workspace":       set("hd", "evil.com"),
			"an account of its own":   drop("hd"),
			"an address that lies":    func(t *idToken) { delete(t.claims, "hd"); t.claims["email"] = "ceo@acme.com" },
			"hd as a list":            set("hd", []any{"acme.com", 7}),
			"the issuer's old name":   set("iss", "accounts.google.com"),
			"another client asked":    set("azp", "other.apps.googleusercontent.com"),
			"made for another client": set("aud", "other.apps.googleusercontent.com"),
		},
		load: map[string]func(*idp.Config){
			"aud only":             require(),
			"a pin by address":     require(idp.Requirement{"email": exactly("ceo@acme.com")}),
			"a pin by a regexp":    require(idp.Requirement{"hd": exactly(`~.*\.acme\.com`)}),
			"no type":              func(c *idp.Config) { c.Type, c.Issuer = "", "https://accounts.google.com" },
			"an address for sub":   func(c *idp.Config) { c.SubjectClaim = "email" },
			"a login by keys file": func(c *idp.Config) { c.ClientID = "x" },
		},
	},

	"google, a service account": {
		survives: []string{"asked for by its subject"},
		config: idp.Config{Type: "google", Audiences: []string{"https://hourpass.example.com"}, Require: []idp.Requirement{
			{"hd": exactly("acme.com")}, {"/google/compute_engine/project_number": exactly("739419398126")}, {"sub": exactly("117")},
		}},
		token: `{"header": {"alg": "RS256", "typ": "JWT"}, "claims": {
			"iss": "https://accounts.google.com", "azp": "102087451030164561122", "aud": "https://hourpass.example.com", "sub": "102087451030164561122",
			"email": "batch@acme-prod.iam.gserviceaccount.com", "email_verified": true,
			"google": {"compute_engine": {"project_id": "acme-prod", "project_number": 739419398126, "zone": "us-west1-a", "instance_id": "152986662232938449",
				"instance_name": "example", "instance_creation_timestamp": 1499899000}}}}`,
		subject: "102087451030164561122",
		claims:  map[string]string{"project_id": "acme-prod", "project_number": "739419398126", "instance_id": "152986662232938449"},
		good: map[string]func(*idToken){
			"one that is named": func(t *idToken) { t.claims["sub"], t.claims["azp"] = "117", "117"; delete(t.claims, "google") },
		},
		refused: map[string]func(*idToken){
			"another project":             set("google", map[string]any{"compute_engine": map[string]any{"project_number": 1}}),
			"the project's id, anyone's":  set("google", map[string]any{"compute_engine": map[string]any{"project_id": "acme-prod"}}),
			"no project":                  drop("google"),
			"asked for by another":        set("azp", "117"),
			"for another too, by its own": set("aud", []string{"https://hourpass.example.com", "https://other.example.com"}),
			"an unwieldy project number":  set("google", map[string]any{"compute_engine": map[string]any{"project_number": json.Number("7.39419398126e11")}}),
			"nested where it does not count": func(t *idToken) {
				t.claims["/google/compute_engine/project_number"] = "739419398126"
				delete(t.claims, "google")
			},
		},
	},

	"keycloak": {
		config: idp.Config{Type: "keycloak", Issuer: "https://sso.acme.com/realms/acme", Audiences: []string{"portal"}},
		token: `{"header": {"alg": "RS256", "typ": "JWT"}, "claims": {
			"jti": "d9f5c1a4", "iss": "https://sso.acme.com/realms/acme", "aud": "portal", "sub": "f7a6c0de-5c0f-4b1c-9a9d-3c1fd0a2b8c1", "typ": "ID", "azp": "portal",
			"sid": "2b0e", "at_hash": "x2", "acr": "1", "email_verified": false, "preferred_username": "ada", "auth_time": 1789990000, "groups": ["/ml/users"],
			"realm_access": {"roles": ["offline_access"]}}}`,
		subject: "f7a6c0de-5c0f-4b1c-9a9d-3c1fd0a2b8c1",
		groups:  []string{"/ml/users"},
		refused: map[string]func(*idToken){
			"an access token":                    set("typ", "Bearer"),
			"an access token of RFC 9068":        head("typ", "at+jwt"),
			"a logout token":                     set("typ", "Logout"),
			"a logout token by its events":       set("events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}),
			"an offline token":                   set("typ", "Offline"),
			"a token of no kind":                 drop("typ"),
			"another realm":                      set("iss", "https://sso.acme.com/realms/master"),
			"for an audience of ours by another": set("azp", "wiki"),
		},
		load: map[string]func(*idp.Config){
			"plain http":                        func(c *idp.Config) { c.Issuer, c.JWKS = "http://sso.acme.com/realms/acme", nil },
			"access tokens in the header alone": func(c *idp.Config) { c.Types = []string{"at+jwt"} },
			"logout tokens":                     func(c *idp.Config) { c.Types = []string{"logout+jwt"} },
		},
	},

	"dex": {
		config: idp.Config{Type: "dex", Issuer: "https://dex.acme.com", Audiences: []string{"portal"}, Require: []idp.Requirement{{"/federated_claims/connector_id": exactly("ldap")}}},
		token: `{"header": {"alg": "RS256"}, "claims": {
			"iss": "https://dex.acme.com", "sub": "CgcyMzQyNzQ5EgRsZGFw", "aud": "portal", "at_hash": "bi96gOXZShvlWYtal9Eqiw", "email": "jane@acme.com",
			"email_verified": true, "groups": ["admins", "developers"], "name": "jane", "federated_claims": {"connector_id": "ldap", "user_id": "2342749"}}}`,
		subject: "CgcyMzQyNzQ5EgRsZGFw",
		claims:  map[string]string{"connector": "ldap", "connector_user": "2342749"},
		groups:  []string{"admins", "developers"},
		refused: map[string]func(*idToken){
			"another connector":         set("federated_claims", map[string]any{"connector_id": "github", "user_id": "2342749"}),
			"no connector":              drop("federated_claims"),
			"a connector of no account": set("federated_claims", "ldap"),
			"cross-client, by another":  func(t *idToken) { t.claims["aud"], t.claims["azp"] = []string{"portal", "wiki"}, "wiki" },
		},
		load: map[string]func(*idp.Config){
			"any connector": require(),
			"a pin by name": require(idp.Requirement{"preferred_username": exactly("jane")}),
		},
	},

	"oidc": {
		config: idp.Config{Issuer: "https://idp.acme.com", Audiences: []string{"portal"}, Claims: map[string]string{"dept": "https://acme.com/dept", "level": "/org/level", "flag": "/org/~1flag"}},
		token: `{"header": {"alg": "ES256"}, "claims": {"iss": "https://idp.acme.com", "sub": "ada", "aud": "portal", "groups": [],
			"https://acme.com/dept": "search", "org": {"level": 7, "/flag": true}, "empty": ""}}`,
		subject: "ada",
		claims:  map[string]string{"dept": "search", "level": "7", "flag": "true"},
		groups:  []string{},
		good: map[string]func(*idToken){
			"in capitals":         set("SUB", "eve"),
			"just within max_age": set("iat", moment.Add(-time.Hour).Unix()),
			"just within the skew": func(t *idToken) {
				t.claims["iat"], t.claims["nbf"] = moment.Add(30*time.Second).Unix(), moment.Unix()+30
			},
			"for us twice": set("aud", []string{"portal", "portal"}),
		},
		refused: map[string]func(*idToken){
			"a subject that is a number": set("sub", 7),
			"an empty subject":           set("sub", ""),
			"a long subject":             set("sub", strings.Repeat("x", 256)),
			"a subject in capitals only": func(t *idToken) { delete(t.claims, "sub"); t.claims["SUB"] = "ada" },
			"a line end in a claim":      set("https://acme.com/dept", "search\nadmin"),
			"groups with an empty one":   set("groups", []string{""}),
		},
		load: map[string]func(*idp.Config){
			"no issuer":        func(c *idp.Config) { c.Issuer = "" },
			"an unknown type":  func(c *idp.Config) { c.Type = "saml" },
			"a tenant":         func(c *idp.Config) { c.Tenant = tenant },
			"a trust domain":   func(c *idp.Config) { c.TrustDomain = "acme.com" },
			"shared, aud only": func(c *idp.Config) { c.Shared = true },
			"shared, pinned by aud": func(c *idp.Config) {
				c.Shared = true
				c.Require = []idp.Requirement{{"aud": exactly("portal")}}
			},
			"an empty requirement":      require(idp.Requirement{}),
			"a requirement of nothing":  require(idp.Requirement{"dept": nil}),
			"a reserved name":           func(c *idp.Config) { c.Claims = map[string]string{"act": "dept"} },
			"a reserved name, may_act":  func(c *idp.Config) { c.Claims = map[string]string{"may_act": "dept"} },
			"a reserved name, sub":      func(c *idp.Config) { c.Claims = map[string]string{"sub": "dept"} },
			"a name of odd characters":  func(c *idp.Config) { c.Claims = map[string]string{"De pt": "dept"} },
			"a claim of no name":        func(c *idp.Config) { c.Claims = map[string]string{"dept": ""} },
			"a pointer to nothing":      func(c *idp.Config) { c.Claims = map[string]string{"dept": "/"} },
			"a claim of a long name":    func(c *idp.Config) { c.Claims = map[string]string{"dept": strings.Repeat("a", 129)} },
			"a pointer too deep":        func(c *idp.Config) { c.Claims = map[string]string{"dept": strings.Repeat("/a", 9)} },
			"the client as subject":     func(c *idp.Config) { c.SubjectClaim = "client_id" },
			"an actor's subject":        func(c *idp.Config) { c.SubjectClaim = "/act/sub" },
			"an address as subject":     func(c *idp.Config) { c.SubjectClaim = "email" },
			"scopes as groups":          func(c *idp.Config) { c.GroupsClaim = "scope" },
			"HMAC":                      func(c *idp.Config) { c.Algorithms = []string{"HS256"} },
			"none":                      func(c *idp.Config) { c.Algorithms = []string{"none"} },
			"too old a token":           func(c *idp.Config) { c.MaxAge = 25 * time.Hour },
			"a negative age":            func(c *idp.Config) { c.MaxAge = -time.Hour },
			"too much skew":             func(c *idp.Config) { c.Skew = 6 * time.Minute },
			"negative skew":             func(c *idp.Config) { c.Skew = -time.Second },
			"any party":                 func(c *idp.Config) { c.AuthorizedParties = []string{"*"} },
			"keys from two places":      func(c *idp.Config) { c.JWKSURL = "https://idp.acme.com/keys" },
			"keys over plain http":      func(c *idp.Config) { c.JWKS, c.JWKSURL = nil, "http://idp.acme.com/keys" },
			"keys behind a password":    func(c *idp.Config) { c.JWKS, c.JWKSURL = nil, "https://a:b@idp.acme.com/keys" },
			"a host in capitals, known": func(c *idp.Config) { c.Issuer = "https://GitLab.com" },
			"more claims than fit": func(c *idp.Config) {
				c.Claims = map[string]string{}
				for i := range policy.MaxClaims + 1 {
					c.Claims["c"+string(rune('a'+i%26))+string(rune('a'+i/26))] = "x"
				}
			},
		},
	},
}

// anyToken spoils a token in a way that no provider's survives.
var anyToken = map[string]func(*idToken){
	"expired just now":            set("exp", moment.Unix()),
	"no expiry":                   drop("exp"),
	"an expiry that is a text":    set("exp", "1799999999"),
	"issued a day ago":            set("iat", moment.Add(-24*time.Hour).Unix()),
	"issued in the future":        set("iat", moment.Add(31*time.Second).Unix()),
	"valid later":                 set("nbf", moment.Add(31*time.Second).Unix()),
	"for another client":          set("aud", "somebody-else"),
	"for nobody":                  drop("aud"),
	"for an empty list":           set("aud", []string{}),
	"by another client":           set("azp", "somebody-else"),
	"bound to a key":              set("cnf", map[string]any{"jkt": "x"}),
	"a security event":            set("events", map[string]any{}),
	"a claim twice":               func(t *idToken) { t.more = `"aud":"x"` },
	"a nested claim twice":        func(t *idToken) { t.more = `"x":{"a":1,"a":2}` },
	"signed by a stranger":        func(t *idToken) { t.kid = "stranger"; t.header["alg"] = "RS256" },
	"signed by nobody":            head("alg", "none"),
	"an access token (RFC 9068)":  head("typ", "at+jwt"),
	"a key id nobody has":         head("kid", "x"),
	"a key that came along":       head("jwk", publicJWK("stranger", "sig")),
	"too long":                    set("filler", strings.Repeat("x", idp.MaxAssertion)),
	"a subject with a line end":   func(t *idToken) { t.claims["sub"], t.claims["oid"] = "a\nb", "a\nb" },
	"a subject beyond ASCII":      func(t *idToken) { t.claims["sub"], t.claims["oid"] = "ädä", "ädä" },
	"no subject":                  func(t *idToken) { delete(t.claims, "sub"); delete(t.claims, "oid") },
	"asked for by its subject":    func(t *idToken) { t.claims["azp"] = t.claims["sub"] },
	"not saying when it was made": drop("iat"),
	"a jti that is no text":       set("jti", 7),
	"a nonce that is no text":     set("nonce", 7),
	"an auth_time in words":       set("auth_time", "now"),
	"an iss that is no text":      set("iss", []string{"https://idp.acme.com"}),
	"bytes after the JSON object": nil, // Below.
}

func TestPresets(t *testing.T) {
	for name, v := range vendors {
		t.Run(name, func(t *testing.T) {
			p := mustProvider(t, withKeys(v.config))
			good := newToken(v.token)
			who, err := p.Whose(good.String(), moment)
			if err != nil {
				t.Fatalf("the vendor's own example: %v", err)
			}
			want := policy.Identity{
				Provider: "corp", Issuer: p.Issuer, Subject: v.subject, Claims: v.claims, Groups: v.groups,
				Expires: moment.Add(4 * time.Minute), AuthTime: who.AuthTime, ACR: who.ACR, AMR: who.AMR,
			}
			if !reflect.DeepEqual(who, want) {
				t.Errorf("Identify = %+v, want %+v", who, want)
			}
			if picked, err := idp.Pick([]*idp.Provider{p}, good.String()); err != nil || picked != p {
				t.Errorf("Pick = %v, %v, want the provider", picked, err)
			}
			for why, change := range v.good {
				token := newToken(v.token)
				change(token)
				if who, err := p.Whose(token.String(), moment); err != nil || who.Subject != token.claims[p.SubjectClaim] {
					t.Errorf("%s: Identify = %+v, %v, want its subject", why, who, err)
				}
			}
			for _, spoils := range []map[string]func(*idToken){v.refused, anyToken} {
				for why, spoil := range spoils {
					if slices.Contains(v.survives, why) {
						continue
					}
					token := newToken(v.token)
					raw := ""
					if spoil == nil {
						payload, _ := json.Marshal(token.claims)
						raw = sign(token.header, append(payload, '{', '}'), token.kid)
					} else {
						spoil(token)
						raw = token.String()
					}
					if who, err := p.Whose(raw, moment); !errors.Is(err, idp.ErrIdentity) {
						t.Errorf("%s: Identify = %+v, %v, want it refused", why, who, err)
					}
				}
			}
			for why, spoil := range v.load {
				c := withKeys(v.config)
				spoil(&c)
				var problems idp.Problems
				if _, err := idp.New(c); !errors.As(err, &problems) || len(problems) == 0 {
					t.Errorf("%s: NewProvider = %v, want problems", why, err)
				}
			}
		})
	}
}

// TestEveryTypeIsTested: a type without a vendor's token here is not known to
// work.
func TestEveryTypeIsTested(t *testing.T) {
	tested := map[string]bool{}
	for _, v := range vendors {
		if v.config.Type == "" {
			v.config.Type = "oidc"
		}
		tested[v.config.Type] = true
	}
	if got := slices.Sorted(maps.Keys(tested)); !slices.Equal(got, idp.Types()) {
		t.Errorf("types with a token here: %q, want %q", got, idp.Types())
	}
}
