package issuer_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/issuer"
)

// TestOpenAPINamesEveryRoute: and no other.
func TestOpenAPINamesEveryRoute(t *testing.T) {
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]any
	}
	if err := json.Unmarshal(issuer.OpenAPI, &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%q, %v", doc.OpenAPI, err)
	}
	var described []string
	for path, methods := range doc.Paths {
		for method := range methods {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	routes, err := issuer.Routes()
	if err != nil || len(routes) < 30 {
		t.Fatalf("%d routes, %v", len(routes), err)
	}
	for _, r := range routes {
		if !strings.HasPrefix(r, "HEAD ") && !slices.Contains(described, r) {
			t.Errorf("%s is served and not described", r)
		}
	}
	for _, d := range described {
		if !slices.Contains(routes, d) {
			t.Errorf("%s is described and not served", d)
		}
	}
}
