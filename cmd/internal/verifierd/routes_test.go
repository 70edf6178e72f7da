package verifierd_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/cmd/internal/verifierd"
	"github.com/hourpass/hourpass/verifier"
)

func TestRoutes(t *testing.T) {
	var all, some bytes.Buffer
	if err := verifierd.Routes(&all, "", false); err != nil {
		t.Fatal(err)
	}
	if err := verifierd.Routes(&some, "ollama", false); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(all.String(), "\n"); lines != len(verifier.Table())+1 {
		t.Errorf("%d lines of %d routes", lines, len(verifier.Table()))
	}
	for _, line := range []string{"POST    /api/pull ", "POST    /v1/chat/completions ", "METHOD  PATH "} {
		if !strings.Contains(some.String(), line) {
			t.Errorf("Ollama's routes lack %q:\n%s", line, some.String())
		}
	}
	if strings.Contains(some.String(), "generateContent") {
		t.Errorf("Ollama's routes have Google's:\n%s", some.String())
	}
}

func TestRoutesAsJSON(t *testing.T) {
	var out bytes.Buffer
	if err := verifierd.Routes(&out, "tgi", true); err != nil {
		t.Fatal(err)
	}
	var rows []verifier.RouteRow
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(rows, func(r verifier.RouteRow) bool { return r.Name == "POST /generate" })
	if i < 0 || rows[i].Action != "completions" || !rows[i].Bound || !slices.Contains(rows[i].Guarded, "parameters.max_new_tokens") {
		t.Errorf("%+v", rows)
	}
}

func TestRoutesOfNobody(t *testing.T) {
	var out bytes.Buffer
	err := verifierd.Routes(&out, "olama", true)
	if err == nil || !strings.Contains(err.Error(), "ollama") || out.Len() > 0 {
		t.Errorf("%v %s", err, out.String())
	}
}
