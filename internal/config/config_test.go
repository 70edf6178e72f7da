package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/config"
)

type settings struct {
	Listen string        `yaml:"listen"`
	Wait   time.Duration `yaml:"wait"`
	Secret config.Secret `yaml:"secret"`
	Nested struct {
		Deep  string `yaml:"deep"`
		Count int    `yaml:"count"`
	} `yaml:"nested"`
	List []struct {
		Name   string        `yaml:"name"`
		Secret config.Secret `yaml:"secret"`
	} `yaml:"list"`
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOrder(t *testing.T) {
	secret := write(t, "secret", "s3cret\n")
	path := write(t, "c.yaml", "listen: file\nwait: 5m\nnested:\n  deep: file\nlist:\n  - name: a\n    secret: {file: "+secret+"}\n")
	c := settings{Listen: "default"}
	c.Nested.Count = 7
	_, err := config.Load(path,
		[]string{"HOURPASS_NESTED_DEEP=env", "HOURPASS_LISTEN=env", "HOURPASS_SECRET_FILE=" + secret, "OTHER=x", "HOURPASS_ELSE=x"},
		[]string{"listen=flag"}, &c)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "flag" || c.Nested.Deep != "env" || c.Wait != 5*time.Minute || c.Nested.Count != 7 || c.Secret.Reveal() != "s3cret" || c.List[0].Secret.Reveal() != "s3cret" {
		t.Errorf("Load = %+v (secret %q)", c, c.Secret.Reveal())
	}
}

// TestAllProblemsAtOnce, each with its line.
func TestAllProblemsAtOnce(t *testing.T) {
	path := write(t, "c.yaml", "listen: x\nlisten2: y\nnested:\n  count: many\nlist:\n  - name: a\n  - name: b\n    colour: red\n")
	var c settings
	source, err := config.Load(path, nil, nil, &c)
	if err != nil {
		t.Fatal(err)
	}
	p := source.Problems()
	p.Check(c.Listen == "good", "listen", "want good")
	p.Check(false, "list[1].name", "is bad")
	p.Check(true, "list[0].name", "is fine")
	got := strings.ReplaceAll(p.Err().Error(), path, "F")
	for _, want := range []string{"F:2: there is no setting listen2", "F:4: ", "F:8: there is no setting colour", "F:1: listen: want good", "F:7: list[1].name: is bad"} {
		if !strings.Contains(got, want) {
			t.Errorf("Problems:\n%s\nwant among them %q", got, want)
		}
	}
	if strings.Contains(got, "fine") {
		t.Errorf("Problems tells what is fine:\n%s", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	for why, row := range map[string]struct {
		text      string
		env, sets []string
	}{
		"a key twice":            {text: "listen: a\nlisten: b\n"},
		"a list":                 {text: "- a\n"},
		"no YAML":                {text: "listen: [\n"},
		"a file that is too big": {text: "#" + strings.Repeat("x", config.MaxBytes)},
		"a set without a value":  {text: "listen: a\n", sets: []string{"listen"}},
		"a secret said twice":    {text: "listen: a\n", env: []string{"HOURPASS_SECRET=a", "HOURPASS_SECRET_FILE=b"}},
		"a secret's file gone":   {text: "listen: a\n", env: []string{"HOURPASS_SECRET_FILE=/nowhere"}},
	} {
		var c settings
		if source, err := config.Load(write(t, "c.yaml", row.text), row.env, row.sets, &c); err == nil && source.Problems().Err() == nil {
			t.Errorf("%s: Load takes it: %+v", why, c)
		}
	}
	if _, err := config.Load("/nowhere", nil, nil, &settings{}); err == nil {
		t.Error("a missing file is taken")
	}
	var c settings
	source, err := config.Load(write(t, "c.yaml", "listen: a\n"), nil, []string{"nested.nothing=x"}, &c)
	if err == nil && source.Problems().Err() == nil {
		t.Error("a set of an unknown path is taken")
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	s := struct{ S config.Secret }{config.NewSecret("hunter2")}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %q %s", s, s, s, s.S), string(b), s.S.String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the secret is printed: %s", text)
		}
	}
}
