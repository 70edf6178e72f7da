package idp

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// A preset is what is known of one kind of identity provider: data, of which
// docs/identity-providers.md names the sources. Settings of a [Config]
// that are left out come from here.
type preset struct {
	issuer string   // The issuer where there is only one, or one that most mean.
	hosts  []string // Their issuers belong to this type and are refused under any other.
	shared bool     // Anybody can have an account at those hosts.

	subject string            // The claim that is the subject. Empty is "sub".
	groups  string            // The claim with the groups. Empty: there are none.
	claims  map[string]string // Claims of the identity, by our name, and where they stand in the token.
	pins    []string          // Of claims, the ids that are never given to anybody else.
	pinSub  bool              // The subject is such an id too.
	mustPin bool              // A pin must be required even where the issuer is not shared.

	// always must hold for every token, idToken for those that are no access
	// tokens, accessToken where access tokens are accepted.
	always, idToken, accessToken Requirement
	accessOnly                   []string // Claims that access tokens have and ID tokens do not.

	noLogin       bool // It knows workloads, not people.
	scopes        []string
	authParams    map[string]string // Sent along when a browser is sent to log in.
	endpointHosts []string

	algorithms, types []string
	maxAge            time.Duration

	partyIsSubject bool // azp may be the subject itself: a workload that asked for its own token.
	oneAudience    bool // The token must be for us alone.
	issuedOptional bool // iat may be absent. max_age then bounds what is left until exp.
}

// allAlgorithms are those that our key store verifies.
var allAlgorithms = []string{"ES256", "ES384", "EdDSA", "RS256"}

// An ID token's header says JWT, or nothing (OpenID Connect says neither). An
// access token's says otherwise (RFC 9068) and is no identity.
var idTokenTypes = []string{"", "JWT"}

// accessTokenTypes are accepted besides where access tokens are.
var accessTokenTypes = []string{"at+jwt", "application/at+jwt"}

const (
	typeOIDC       = "oidc"
	typeEntra      = "entra"
	typeSPIFFE     = "spiffe"
	typeKubernetes = "kubernetes"
)

var presets = map[string]preset{
	typeOIDC: {
		groups: "groups", algorithms: []string{"ES256", "RS256", "EdDSA"}, types: idTokenTypes, maxAge: time.Hour,
	},

	// GitHub Actions. Its subject names the repository, by names alone
	// (repo:octo-org/octo-repo:ref:…) or with ids (repo:octo-org@12/octo-repo@34:…).
	// Names can be registered again by somebody else; the ids can't.
	"github": {
		issuer: "https://token.actions.githubusercontent.com", hosts: []string{"token.actions.githubusercontent.com"}, shared: true,
		claims: same("repository", "repository_id", "repository_owner", "repository_owner_id", "repository_visibility", "ref", "ref_type",
			"environment", "event_name", "workflow_ref", "job_workflow_ref", "actor_id", "runner_environment"),
		pins: []string{"repository_id", "repository_owner_id"}, noLogin: true,
		algorithms: []string{"RS256"}, types: []string{"JWT"}, maxAge: 10 * time.Minute,
	},

	// GitLab's CI jobs. The groups claim of GitLab lists those of whoever
	// started the job, so none is read unless the configuration names one.
	"gitlab": {
		issuer: "https://gitlab.com", hosts: []string{"gitlab.com"}, shared: true,
		claims: same("project_id", "project_path", "namespace_id", "namespace_path", "ref", "ref_type", "ref_protected",
			"environment", "environment_protected", "pipeline_source", "ci_config_ref_uri", "user_id", "runner_environment"),
		pins:       []string{"project_id", "namespace_id"},
		algorithms: []string{"RS256"}, types: []string{"JWT"}, maxAge: time.Hour,
	},

	// Service accounts. A token without their uid is of the old kind, which
	// never ends and outlives the account.
	typeKubernetes: {
		claims: map[string]string{
			"namespace": "/kubernetes.io/namespace", "serviceaccount": "/kubernetes.io/serviceaccount/name",
			"serviceaccount_uid": "/kubernetes.io/serviceaccount/uid", "pod": "/kubernetes.io/pod/name",
			"pod_uid": "/kubernetes.io/pod/uid", "node": "/kubernetes.io/node/name",
		},
		pins: []string{"serviceaccount_uid"}, always: Requirement{"/kubernetes.io/serviceaccount/uid": {mustPattern("~[0-9A-Za-z-]{1,64}")}},
		noLogin: true, algorithms: []string{"RS256", "ES256", "ES384"}, types: idTokenTypes, maxAge: time.Hour,
	},

	// JWT-SVIDs. The subject is a SPIFFE ID; an iss is not required.
	typeSPIFFE: {
		noLogin: true, pins: []string{}, algorithms: []string{"ES256", "ES384", "RS256"}, types: []string{"", "JWT", "JOSE"},
		maxAge: time.Hour, oneAudience: true, issuedOptional: true,
	},

	// Microsoft Entra ID. sub differs from one application to the next; oid is
	// the same for all of a tenant, so (issuer, which names the tenant; oid) is
	// the identity. An access token's iat may lie 90 minutes back.
	typeEntra: {
		hosts:   []string{"login.microsoftonline.com", "sts.windows.net", "login.microsoftonline.us", "login.partner.microsoftonline.cn"},
		subject: "oid", groups: "groups", claims: same("tid", "oid", "idtyp"), pins: []string{"tid"},
		accessOnly: []string{"scp", "azpacr", "appidacr", "appid", "azp"},
		scopes:     []string{"offline_access", "profile"}, endpointHosts: []string{"login.microsoftonline.com"},
		algorithms: []string{"RS256"}, types: []string{"JWT"}, maxAge: 90 * time.Minute,
	},

	"okta": {
		groups: "groups", accessOnly: []string{"scp", "cid"}, scopes: []string{"offline_access", "groups"},
		algorithms: []string{"RS256"}, types: idTokenTypes, maxAge: time.Hour,
	},

	// Google accounts of people, and service accounts, whose azp is themselves.
	// There is no scope for refresh tokens; access_type asks for them.
	"google": {
		issuer: "https://accounts.google.com", hosts: []string{"accounts.google.com"}, shared: true,
		claims: map[string]string{
			"hd": "hd", "project_number": "/google/compute_engine/project_number", "project_id": "/google/compute_engine/project_id",
			"instance_id": "/google/compute_engine/instance_id",
		},
		pins: []string{"hd", "project_number"}, pinSub: true,
		scopes: []string{"email"}, authParams: map[string]string{"access_type": "offline", "prompt": "consent"},
		endpointHosts: []string{"oauth2.googleapis.com", "www.googleapis.com"},
		algorithms:    []string{"RS256"}, types: []string{"JWT"}, maxAge: time.Hour, partyIsSubject: true,
	},

	// Keycloak's tokens all say JWT in their header; what they are for stands in
	// a claim.
	"keycloak": {
		groups: "groups", idToken: Requirement{"typ": {mustPattern("ID")}}, accessToken: Requirement{"typ": {mustPattern("ID"), mustPattern("Bearer")}},
		scopes: []string{"offline_access"}, algorithms: []string{"RS256", "ES256", "ES384", "EdDSA"}, types: idTokenTypes, maxAge: time.Hour,
	},

	// Dex speaks for other providers, its connectors. The subject holds the
	// connector, groups do not: two connectors may have a group of one name.
	"dex": {
		groups: "groups", claims: map[string]string{"connector": "/federated_claims/connector_id", "connector_user": "/federated_claims/user_id"},
		pins: []string{"connector"}, mustPin: true, scopes: []string{"offline_access", "groups", "federated:id"},
		algorithms: []string{"RS256", "ES256", "ES384"}, types: idTokenTypes, maxAge: time.Hour,
	},
}

// Types are the values of [Config.Type].
func Types() []string { return slices.Sorted(maps.Keys(presets)) }

// same maps claims under their own names.
func same(names ...string) map[string]string {
	m := make(map[string]string, len(names))
	for _, n := range names {
		m[n] = n
	}
	return m
}

func mustPattern(text string) policy.Pattern {
	p, err := policy.ParsePattern(text)
	if err != nil {
		panic(err) // Of data in this file.
	}
	return p
}

// owns tells whether the issuer's host belongs to the type.
func (p preset) owns(issuer *url.URL) bool {
	return slices.Contains(p.hosts, strings.ToLower(issuer.Hostname()))
}

// ownerOf returns the type that the issuer's host belongs to, or "".
func ownerOf(issuer *url.URL) string {
	for name, p := range presets {
		if p.owns(issuer) {
			return name
		}
	}
	return ""
}
