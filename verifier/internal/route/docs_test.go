package route_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/verifier/internal/route"
)

//go:generate go test -run ^TestDocs$ -update .

var update = flag.Bool("update", false, "write docs/routes.md anew")

const docs = "../../../docs/routes.md"

// TestDocs: docs/routes.md says what the registry says.
func TestDocs(t *testing.T) {
	want := document()
	if *update {
		if err := os.WriteFile(docs, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/routes.md is not what the registry says: go generate ./verifier/internal/route")
	}
}

func document() []byte {
	var b bytes.Buffer
	b.WriteString(`# Routes

<!-- Made of the registry: go generate ./verifier/internal/route -->

The calls that there are. What is on no list is 404, whatever the upstream behind it may have. ` + "`hourpass-verifier routes [API] [--json]`" + ` prints the same, with
the members of each body that are guarded.

- The **scope** of a call is the action and the model's name, such as ` + "`chat:hr-bot`" + `. Routes marked *any* take a scope of any action on the model.
- Routes of the action **admin** rule a server, or let out what only who rules it should see. Each is closed until the configuration of an upstream opens it by its
  name (` + "`open: [\"POST /api/pull\"]`" + `), and then takes the scope ` + "`admin:MODEL`" + `, or ` + "`admin:UPSTREAM`" + ` where it names no model.
- **Model in** says where a request names its model. A second way to name one is refused, and so is any parameter in the query that is not on the list.
  *Or none*: it may be left out where one upstream alone has the route, and one model.
- *Opaque* routes take parameters that can't be seen: a token that bounds any (` + "`par`" + `) does not open them.
- ` + "`/v1/files`, `/v1/batches`" + ` and their like stay closed in every family: the models stand within files.

`)
	for _, f := range route.Families {
		section(&b, f)
	}
	return b.Bytes()
}

func section(b *bytes.Buffer, f *route.Family) {
	fmt.Fprintf(b, "## %s (`%s`)\n\n%s\n\n", f.Title, f.Name, f.About)
	fmt.Fprint(b, "| route | scope | model in | streams | besides |\n|---|---|---|---|---|\n")
	var admin, shared []string
	for _, r := range route.Table() {
		switch {
		case !slices.Contains(r.Families, f.Name):
		case r.Admin:
			admin = append(admin, "`"+r.Name+"`")
		case r.Families[0] != f.Name:
			shared = append(shared, "`"+r.Name+"`")
		default:
			fmt.Fprintf(b, "| `%s %s` | %s | %s | %s | %s |\n", r.Method, r.Path, scope(r), place(r), strings.ReplaceAll(r.Stream, "never", ""), besides(r))
		}
	}
	b.WriteString("\n")
	if len(shared) > 0 {
		fmt.Fprintf(b, "Its servers have of other families: %s.\n\n", strings.Join(shared, ", "))
	}
	if len(admin) > 0 {
		fmt.Fprintf(b, "Closed until opened by name: %s.\n\n", strings.Join(admin, ", "))
	}
}

func scope(r route.Row) string {
	switch {
	case r.AnyAction:
		return "any"
	case r.Model == "none":
		return "any, of any model"
	}
	return r.Action
}

func place(r route.Row) string {
	if r.Bound {
		return r.Model + ", or none"
	}
	return r.Model
}

func besides(r route.Row) string {
	var words []string
	if r.Form && r.Model != "multipart" {
		words = append(words, "multipart")
	}
	if r.Socket {
		words = append(words, "WebSocket")
	}
	if r.Opaque {
		words = append(words, "opaque")
	}
	for _, name := range r.Query {
		words = append(words, "`?"+name+"=`")
	}
	for _, media := range r.Answers {
		words = append(words, "`"+media+"`")
	}
	return strings.Join(words, ", ")
}
