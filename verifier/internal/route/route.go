// Package route is the registry of the calls that there are: for each API of a
// model server which methods and paths it has, what permission each needs, where
// a request names its model, which of its members must be what, where usage
// stands in the answer, and how errors are told. It is data; a route that is not
// in it does not exist.
//
// It refuses to know requests and bodies: those who read them ask it. Start with
// [Route]; each API has the file of its name.
package route

// Carrier is where a request names its model.
type Carrier byte

// The carriers.
const (
	Nowhere Carrier = iota // The call is about no model.
	InBody                 // The member "model" of a JSON object.
	InPath                 // A segment of the path.
	InQuery                // The parameter "model".
	InForm                 // The field "model" of multipart/form-data.
	InFrame                // A message of a WebSocket.
)

func (c Carrier) String() string {
	return [...]string{"none", "JSON body", "path", "query", "multipart", "frame"}[c]
}

// Streaming is when an answer comes in pieces.
type Streaming byte

// The answers.
const (
	Never     Streaming = iota
	OnRequest           // With "stream": true.
	Unless              // Without "stream": false.
	Always
)

func (s Streaming) String() string {
	return [...]string{"never", "on request", "unless declined", "always"}[s]
}

// Listed is a model in a list.
type Listed struct {
	ID, Owner string
	Created   int64 // Unix time.
}

// Usage is where an answer says what it cost: member names, from the outermost,
// with dots between; "." is the outermost object itself. Several places stand with
// spaces between.
type Usage struct {
	Answer string // In a whole answer.
	Event  string // In an event of a stream.
}

// A Route is one method and path that calls may take.
type Route struct {
	Method string

	// Path is exact but for what stands in braces: {model} is the model's name
	// within one segment, {model...} one or more whole segments at the end, any
	// other {name} one segment of letters, digits, ".", "_" and "-".
	Path string

	// Action is what a scope must permit; "admin" where the route rules the
	// server.
	Action string

	// Carrier is where the model stands.
	Carrier Carrier

	// Bound routes may leave the model out: then it is the only model of the only
	// upstream that could be meant.
	Bound bool

	// Members are the rules for a body's members, a form's fields or a frame's
	// members. Nil: the route takes no body.
	Members *Members

	// Form routes take multipart/form-data although the model stands elsewhere. Of
	// carrier InForm it goes without saying.
	Form bool

	// Socket routes are WebSockets: Members are the rules for each message of the
	// client.
	Socket bool

	// Agree are the members, with dots between, that may name the model again and
	// then must name the same ([Route.Disagrees]): servers look at one or the
	// other. They lead through arrays.
	Agree []string

	// Query are the parameters that may stand there, each once, and what they may
	// be. All others are refused: one may name a model, a stream or a key to
	// servers that look there.
	Query map[string]func(string) bool

	// Required are those that must.
	Required []string

	// AnyAction lets a scope of any action on the model do: the route tells no
	// more of the model than that it exists.
	AnyAction bool

	// List marks a route whose answer lists models: we make it ourselves, of what
	// the upstreams list. It is how the list is written.
	List func(models []Listed) []byte

	// Stream is when the answer comes in pieces.
	Stream Streaming

	// Answers are the media types that an answer may have, beside JSON and events.
	// One that ends in "/" stands for all below it.
	Answers []string

	// Opaque routes take parameters that can't be seen: a token that bounds any
	// does not open them.
	Opaque bool

	// LargeBody routes take bodies up to the larger of the two bounds: files.
	LargeBody bool

	// Usage is where the answer says what it cost.
	Usage Usage

	// Family is whose route it is; the registry fills it in.
	Family *Family

	name string
}

// Admin tells whether the route rules the server, or lets out what only who
// rules it should see. Such routes are closed until an upstream opens them.
func (r *Route) Admin() bool { return r.Action == "admin" }

// TakesForm tells whether the body is multipart/form-data.
func (r *Route) TakesForm() bool { return r.Form || r.Carrier == InForm }

// Name is how logs, records and configuration call the route. There are as many
// names as routes, however many models.
func (r *Route) Name() string { return r.name }

// A Family is the API of one kind of model server.
type Family struct {
	Name   string // As the configuration calls it.
	Title  string // As people do.
	About  string // A paragraph for people: names, routes that rule, what stays closed.
	Routes []Route

	// Also are the names of other families' routes that such servers have too.
	Also []string

	// Canonical returns the one name of a model that such servers know by several.
	// Nil: each name is its own.
	Canonical func(name string) string

	// OwnRight tells which of those names are a right of their own, that no pattern
	// of a scope covers. Nil: none.
	OwnRight func(canonical string) bool

	// Collection may stand before the name of a model within a body. Empty: nothing
	// may.
	Collection string

	// Cap is the member that bounds the tokens of an answer, where a route has
	// several and a request none. Empty: the route's first.
	Cap string

	// Credential is the header in which such servers want theirs, with the word
	// before it. Empty: Authorization.
	Credential string

	// Headers are what a client may say to such servers beside the common ones,
	// in canonical form.
	Headers []string

	// Refusal is the body of an error answer in the family's dialect.
	Refusal func(status int, code, message, decision string) []byte

	// Event ends a stream of events that broke off with that error. Where the
	// family streams JSON lines, it is the last line.
	Event func(body []byte) []byte
}

// Families are all that the verifier speaks. Before a request has a route, it is
// refused in the dialect of the first.
var Families = []*Family{
	&openAI, &azure, &anthropic, &gemini, &vertex, &ollama, &llamaCpp, &vllm, &tgi, &triton, &cohere, &bedrock,
}

// FamilyOf returns the family of that name, or nil.
func FamilyOf(name string) *Family {
	for _, f := range Families {
		if f.Name == name {
			return f
		}
	}
	return nil
}

// Serves tells whether servers of the family have the route.
func (f *Family) Serves(r *Route) bool { return served[servedBy{f, r}] }

// HasAdmin tells whether a route of that name rules such servers.
func (f *Family) HasAdmin(name string) bool {
	for s := range served {
		if s.family == f && s.route.Admin() && s.route.name == name {
			return true
		}
	}
	return false
}

// Lists tells whether such servers list their models in OpenAI's dialect.
func (f *Family) Lists() bool {
	for s := range served {
		if s.family == f && s.route.List != nil && s.route.Family == &openAI {
			return true
		}
	}
	return false
}

// CanonicalName returns the one name of a model.
func (f *Family) CanonicalName(name string) string {
	if f.Canonical == nil {
		return name
	}
	return f.Canonical(name)
}
