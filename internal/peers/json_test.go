package peers_test

import (
	"testing"

	"github.com/hourpass/hourpass/internal/peers"
)

func TestJSONReaders(t *testing.T) {
	for _, r := range peers.StartJSONReaders(t) {
		got, ok := r.Members(t, []byte(`{"model":"a","b":1.50,"model":"ü"}`), "model", "b", "toString")
		if !ok || len(got) != 2 || string(got["b"]) != "1.5" || string(got["model"]) != `"ü"` && string(got["model"]) != `"\u00fc"` {
			t.Errorf("%s reads %s, %v", r.Name, got, ok)
		}
		if got, ok := r.Members(t, []byte(`[`), "a"); ok {
			t.Errorf("%s reads %s", r.Name, got)
		}
	}
}
