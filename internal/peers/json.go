package peers

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"testing"
)

// A JSONReader is a parser of another language that reads documents one after
// the other.
type JSONReader struct {
	Name string // Of the language.
	p    *process
}

// StartJSONReaders starts Python's json and JavaScript's JSON.parse.
func StartJSONReaders(t testing.TB) []JSONReader {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		missing(t, "python3")
	}
	binary, dir := node(t)
	readers := []JSONReader{{Name: "Python"}, {Name: "JavaScript"}}
	for i, cmd := range []*exec.Cmd{
		exec.Command(python, "-I", "-u", "-c", pythonReader), exec.Command(binary, "json-reader.mjs"),
	} {
		cmd.Dir, cmd.Env = dir, nodeEnv(nil)
		readers[i].p = start(t, readers[i].Name, cmd)
	}
	return readers
}

// pythonReader and json-reader.mjs speak alike: a line {"doc": BASE64, "names":
// [NAME]} gets a line with those members of the outermost object, as their
// language would say them, or null if the document is no object to it.
const pythonReader = `
import base64, json, sys
for line in sys.stdin:
    ask = json.loads(line)
    try:
        doc = json.loads(base64.b64decode(ask["doc"]))
        print(json.dumps({n: doc[n] for n in ask["names"] if n in doc}))
    except Exception as e:
        print("null")
        print(e, file=sys.stderr)
`

// Members returns the named members of the outermost object of doc, as the
// reader says them itself; without those that it does not see. Ok is false if it
// does not take doc for an object.
func (r JSONReader) Members(t testing.TB, doc []byte, names ...string) (members map[string]json.RawMessage, ok bool) {
	t.Helper()
	line, err := json.Marshal(map[string]any{"doc": base64.StdEncoding.EncodeToString(doc), "names": names})
	if err != nil {
		t.Fatal(err)
	}
	answer := r.p.ask(t, line)
	if err := json.Unmarshal([]byte(answer), &members); err != nil {
		t.Fatalf("%s answered %q: %v", r.Name, answer, err)
	}
	return members, members != nil
}
