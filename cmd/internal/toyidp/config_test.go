package toyidp_test

import (
	"strings"
	"testing"

	"github.com/hourpass/hourpass/cmd/internal/toyidp"
)

// TestConfig starts from a good configuration and spoils one thing a row.
func TestConfig(t *testing.T) {
	const issuer = "http://127.0.0.1:9400"
	if _, err := toyidp.New(configure(issuer)); err != nil {
		t.Fatalf("New(good) = %v", err)
	}
	if _, err := toyidp.New(configure("http://[::1]:9400")); err != nil {
		t.Errorf("New(IPv6 loopback) = %v", err)
	}
	for _, test := range []struct {
		name  string
		spoil func(*toyidp.Config)
		want  string
	}{
		{"no issuer", func(c *toyidp.Config) { c.Issuer = "" }, "issuer"},
		{"issuer on the network", func(c *toyidp.Config) { c.Issuer = "http://192.0.2.1:9400" }, "issuer"},
		{"issuer on all addresses", func(c *toyidp.Config) { c.Issuer = "http://0.0.0.0:9400" }, "issuer"},
		{"issuer by name", func(c *toyidp.Config) { c.Issuer = "http://localhost:9400" }, "issuer"},
		{"issuer with a slash", func(c *toyidp.Config) { c.Issuer = issuer + "/" }, "issuer"},
		{"issuer with a user", func(c *toyidp.Config) { c.Issuer = "http://u@127.0.0.1:9400" }, "issuer"},
		{"issuer over https", func(c *toyidp.Config) { c.Issuer = "https://127.0.0.1:9400" }, "issuer"},
		{"no clients", func(c *toyidp.Config) { c.Clients = nil }, "clients"},
		{"client twice", func(c *toyidp.Config) { c.Clients[1].ID = c.Clients[0].ID }, "clients[1]"},
		{"client without redirect", func(c *toyidp.Config) { c.Clients[0].RedirectURIs = nil }, "clients[0]"},
		{"relative redirect", func(c *toyidp.Config) { c.Clients[0].RedirectURIs = []string{"/callback"} }, "clients[0]"},
		{"service without secret", func(c *toyidp.Config) { c.Clients[2].Secret = "" }, "clients[2]"},
		{"service with redirect", func(c *toyidp.Config) { c.Clients[2].RedirectURIs = []string{callback} }, "clients[2]"},
		{"service without audience", func(c *toyidp.Config) { c.ServiceAudience = "" }, "clients[2]"},
		{"user twice", func(c *toyidp.Config) { c.Users[1].Username = c.Users[0].Username }, "users[1]"},
		{"subject twice", func(c *toyidp.Config) { c.Users[1].Subject = c.Users[0].Subject }, "users[1]"},
		{"subject of a service", func(c *toyidp.Config) { c.Users[1].Subject = "ci" }, "users[1]"},
		{"subject with a colon", func(c *toyidp.Config) { c.Users[1].Subject = "a:b" }, "users[1]"},
		{"no password", func(c *toyidp.Config) { c.Users[1].Password = "" }, "users[1]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := configure(issuer)
			test.spoil(&cfg)
			_, err := toyidp.New(cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("New = %v, want a problem with %s", err, test.want)
			}
		})
	}
}

func TestConfigReportsAll(t *testing.T) {
	cfg := configure("")
	cfg.Users[0].Password = ""
	_, err := toyidp.New(cfg)
	if err == nil || !strings.Contains(err.Error(), "issuer") || !strings.Contains(err.Error(), "users[0]") {
		t.Errorf("New = %v, want both problems", err)
	}
}
