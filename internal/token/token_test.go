package token_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

var now = time.Unix(1_800_000_000, 0)

func good() token.Claims {
	scope, _ := token.NewScopes("chat:faq-bot", "embeddings:llama-*")
	return token.Claims{
		Issuer: "https://hourpass.example", Subject: "corp:4711", Audience: "models", ClientID: "0123456789abcdef", ID: "JTI",
		IssuedAt: now, NotBefore: now, Expires: now.Add(time.Hour), Scope: scope, Grant: "faq",
	}
}

func full() token.Claims {
	c := good()
	c.AuthTime, c.ACR, c.AMR = now.Add(-time.Hour), "urn:mfa", []string{"pwd", "otp"}
	c.Tier, c.Team, c.Groups = "free", `a "team"`, []string{"g1", `g,2\`}
	c.IP = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	c.Limits = token.Limits{"tokens/day": 100000, "concurrent": 4, "requests/second": 0}
	c.Params = token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 4096}, "temperature": {Min: 0.25, Max: 1.5}}, Clamp: true}
	c.Actor = &token.Actor{Subject: "key2", Actor: &token.Actor{Subject: "key1"}}
	return c
}

func TestClaimsSurviveTheWay(t *testing.T) {
	nowhere := good()
	nowhere.IP = []netip.Prefix{}
	for name, c := range map[string]token.Claims{"required ones": good(), "all": full(), "no network": nowhere} {
		payload, err := c.Encode()
		if err != nil {
			t.Fatalf("%s: Encode: %v", name, err)
		}
		got, err := token.Parse(payload)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: Parse(%s) = %+v, %v, want %+v", name, payload, got, err, c)
		}
		if !json.Valid(payload) {
			t.Errorf("%s: Encode wrote no JSON: %s", name, payload)
		}
	}
}

// A good payload, spoilt in one way a row.
func TestParseRefuses(t *testing.T) {
	c := full()
	payload, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(old, new string) string {
		s := strings.Replace(string(payload), old, new, 1)
		if s == string(payload) {
			t.Fatalf("%q is not in %s", old, payload)
		}
		return s
	}
	for why, bad := range map[string]string{
		"not JSON":                 "x",
		"an array":                 "[]",
		"two documents":            string(payload) + "{}",
		"iss missing":              spoil(`"iss":"https://hourpass.example",`, ""),
		"iss null":                 spoil(`"https://hourpass.example"`, "null"),
		"iss twice":                spoil(`"iss"`, `"iss":"x","iss"`),
		"iss twice, escaped":       spoil(`"iss"`, `"\u0069ss":"x","iss"`),
		"Iss beside iss":           spoil(`"iss"`, `"Iss":"x","iss"`),
		"lim of nothing":           spoil(`{"concurrent":4,"requests/second":0,"tokens/day":100000}`, "{}"),
		"lim null":                 spoil(`{"concurrent":4,"requests/second":0,"tokens/day":100000}`, "null"),
		"lim a list":               spoil(`{"concurrent":4,"requests/second":0,"tokens/day":100000}`, "[]"),
		"lim of something unknown": spoil(`tokens/day`, "tokens/week"),
		"lim below zero":           spoil(`100000`, "-1"),
		"lim no integer":           spoil(`100000`, "1e5"),
		"lim too large":            spoil(`100000`, "9007199254740993"),
		"par of nothing":           spoil(`{"max_tokens":4096,"temperature":[0.25,1.5],"clamp":true}`, `{"clamp":true}`),
		"par null":                 spoil(`{"max_tokens":4096,"temperature":[0.25,1.5],"clamp":true}`, "null"),
		"par unknown":              spoil(`max_tokens`, "max_token"),
		"par below zero":           spoil(`4096`, "-1"),
		"par an empty range":       spoil(`[0.25,1.5]`, "[1.5,0.25]"),
		"par three ends":           spoil(`[0.25,1.5]`, "[0,1,2]"),
		"par text":                 spoil(`4096`, `"4096"`),
		"clamp a number":           spoil(`"clamp":true`, `"clamp":1`),
		"act without sub":          spoil(`"act":{"sub":"key2",`, `"act":{`),
		"act with more":            spoil(`"act":{"sub":"key2",`, `"act":{"iss":"x","sub":"key2",`),
		"act null":                 spoil(`{"sub":"key1"}`, "null"),
		"act with an empty sub":    spoil(`"key1"`, `""`),
		"five actors":              spoil(`{"sub":"key1"}`, `{"sub":"a","act":{"sub":"b","act":{"sub":"c","act":{"sub":"d"}}}}`),
		"sub missing":              spoil(`"sub":"corp:4711",`, ""),
		"sub empty":                spoil(`"corp:4711"`, `""`),
		"sub with a newline":       spoil(`corp:4711`, `corp:4711\r\nX: y`),
		"sub not ASCII":            spoil(`corp:4711`, `corp:é`),
		"sub too long":             spoil(`corp:4711`, strings.Repeat("a", token.MaxText+1)),
		"aud a list":               spoil(`"aud":"models"`, `"aud":["models"]`),
		"aud missing":              spoil(`"aud":"models",`, ``),
		"client_id missing":        spoil(`"client_id":"0123456789abcdef",`, ``),
		"jti missing":              spoil(`"jti":"JTI",`, ``),
		"iat missing":              spoil(`"iat":1800000000,`, ``),
		"nbf missing":              spoil(`"nbf":1800000000,`, ``),
		"exp missing":              spoil(`"exp":1800003600,`, ``),
		"exp a string":             spoil(`1800003600`, `"1800003600"`),
		"exp a float":              spoil(`1800003600`, `1800003600.0`),
		"exp with an exponent":     spoil(`1800003600`, `18000036e2`),
		"exp zero":                 spoil(`1800003600`, `0`),
		"exp in milliseconds":      spoil(`1800003600`, `1800003600000`),
		"exp before iat":           spoil(`1800003600`, `1799999999`),
		"nbf after exp":            spoil(`"nbf":1800000000`, `"nbf":1800003601`),
		"scope missing":            spoil(`"scope":"chat:faq-bot embeddings:llama-*",`, ``),
		"scope empty":              spoil(`"scope":"chat:faq-bot embeddings:llama-*"`, `"scope":""`),
		"scope a list":             spoil(`"scope":"chat:faq-bot embeddings:llama-*"`, `"scope":["chat:faq-bot"]`),
		"scope with a bare star":   spoil(`chat:faq-bot`, `chat:*`),
		"grant missing":            spoil(`"grant":"faq",`, ``),
		"ip a string":              spoil(`["10.0.0.0/8","2001:db8::/32"]`, `"10.0.0.0/8"`),
		"ip with host bits":        spoil(`10.0.0.0/8`, `10.0.0.1/8`),
		"ip mapped":                spoil(`10.0.0.0/8`, `::ffff:10.0.0.0/104`),
		"ip not a network":         spoil(`10.0.0.0/8`, `10.0.0.0`),
		"ip null":                  spoil(`["10.0.0.0/8","2001:db8::/32"]`, `null`),
		"an unknown claim":         spoil(`{`, `{"cnf":{"jkt":"x"},`),
		"an unknown restriction":   spoil(`{`, `{"lim":{"tokens":1},`),
		"amr not a list":           spoil(`["pwd","otp"]`, `"pwd"`),
		"a group that is a list":   spoil(`"g1"`, `["g1"]`),
		"depth":                    spoil(`"corp:4711"`, `{"a":{"b":{"c":1}}}`),
		"lone surrogate":           spoil(`corp:4711`, `corp:\ud800`),
		"lifetime over an hour":    spoil(`1800003600`, `1800003601`),
		"trailing comma":           spoil(`}}}`, `}},}`),
		"auth_time not a number":   spoil(`"auth_time":1799996400`, `"auth_time":true`),
		"something behind the end": string(payload) + "x",
	} {
		if got, err := token.Parse([]byte(bad)); !errors.Is(err, token.ErrClaims) && !errors.Is(err, token.ErrLifetime) {
			t.Errorf("%s: Parse(%s) = %+v, %v, want ErrClaims", why, bad, got, err)
		} else if err != nil && strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: the error shows a claim: %v", why, err)
		}
	}
}

func TestEncodeRefusesWhatParseWould(t *testing.T) {
	for why, spoil := range map[string]func(*token.Claims){
		"no issuer":        func(c *token.Claims) { c.Issuer = "" },
		"no scope":         func(c *token.Claims) { c.Scope = nil },
		"no end":           func(c *token.Claims) { c.Expires = time.Time{} },
		"two hours":        func(c *token.Claims) { c.Expires = c.IssuedAt.Add(2 * time.Hour) },
		"a group too many": func(c *token.Claims) { c.Groups = make([]string, token.MaxList+1) },
		"a bad text":       func(c *token.Claims) { c.Team = "a\nb" },
	} {
		c := good()
		spoil(&c)
		if payload, err := c.Encode(); err == nil {
			t.Errorf("%s: Encode = %s, want an error", why, payload)
		}
	}
}

func TestCheck(t *testing.T) {
	expect := token.Expect{Issuer: "https://hourpass.example", Audience: "models", Skew: 30 * time.Second}
	for why, row := range map[string]struct {
		at    time.Time
		spoil func(*token.Claims)
		want  error
	}{
		"good":                          {at: now},
		"the last moment":               {at: now.Add(time.Hour - 1)},
		"at its end":                    {at: now.Add(time.Hour), want: token.ErrExpired},
		"the issuer's clock runs ahead": {at: now.Add(-30 * time.Second)},
		"not yet":                       {at: now.Add(-31 * time.Second), want: token.ErrNotYet},
		"not before":                    {at: now, spoil: func(c *token.Claims) { c.NotBefore = now.Add(time.Minute) }, want: token.ErrNotYet},
		"another issuer":                {at: now, spoil: func(c *token.Claims) { c.Issuer += "/" }, want: token.ErrIssuer},
		"another audience":              {at: now, spoil: func(c *token.Claims) { c.Audience = "Models" }, want: token.ErrAudience},
	} {
		c := good()
		if row.spoil != nil {
			row.spoil(&c)
		}
		if err := expect.Check(&c, row.at); !errors.Is(err, row.want) {
			t.Errorf("%s: Check = %v, want %v", why, err, row.want)
		}
	}
}

func TestAllowsIP(t *testing.T) {
	for _, row := range []struct {
		networks string // Absent: "-".
		addr     string
		want     bool
	}{
		{"-", "192.0.2.1", true},
		{"", "192.0.2.1", false},
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.0.0.0/8", "::ffff:10.1.2.3", true},
		{"10.0.0.0/8", "11.0.0.1", false},
		{"10.0.0.0/8", "2002:a00:1::", false},
		{"fe80::/10", "fe80::1", true},
		{"fe80::/10", "fe80::1%eth0", false},
		{"10.0.0.0/8", "", false},
	} {
		c := good()
		if row.networks != "-" {
			c.IP = []netip.Prefix{}
			if row.networks != "" {
				c.IP = append(c.IP, netip.MustParsePrefix(row.networks))
			}
		}
		var addr netip.Addr
		if row.addr != "" {
			addr = netip.MustParseAddr(row.addr)
		}
		if got := c.AllowsIP(addr); got != row.want {
			t.Errorf("ip %q: AllowsIP(%q) = %v, want %v", row.networks, row.addr, got, row.want)
		}
	}
}

// FuzzParse: what is accepted can be said again without loss.
func FuzzParse(f *testing.F) {
	c := full()
	payload, err := c.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := token.Parse(payload)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatalf("Encode of what Parse took: %v", err)
		}
		if got, err := token.Parse(again); err != nil || !reflect.DeepEqual(got, c) {
			t.Fatalf("Parse(%s) = %+v, %v, want %+v", again, got, err, c)
		}
	})
}

func TestFuzzSeedsAreThere(t *testing.T) {
	seeds, err := os.ReadDir("testdata/fuzz/FuzzParse")
	if err != nil || len(seeds) == 0 {
		t.Errorf("no seeds: %v", err)
	}
}
