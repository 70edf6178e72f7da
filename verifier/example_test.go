package verifier_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/hourpass/hourpass/verifier"
)

// A model server in Go takes only calls that carry a good token, and knows who
// makes them. Keys are usually a key set of package jwks, which fetches the
// issuer's; here they are the example's own.
func ExampleVerifier_Middleware() {
	issuer := newKeys()
	v, err := verifier.New(verifier.Config{
		Issuers: []verifier.Issuer{{URL: "https://issuer.test", Audience: "models", Keys: issuer}},
		Now:     (&clock{}).now,
	})
	if err != nil {
		panic(err)
	}
	model := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _ := verifier.FromContext(r.Context())
		_, _ = fmt.Fprintf(w, "Hello, %s of %s.", who.Subject, who.Team)
	})

	for _, token := range []string{issuer.token(), "stolen"} {
		call := newRequest("POST", "/v1/chat/completions", `{"model":"small","messages":[]}`, token)
		answer := httptest.NewRecorder()
		v.Middleware(model).ServeHTTP(answer, call)
		fmt.Println(answer.Code, answer.Header().Get("WWW-Authenticate") == "", answer.Body.Len() > 0)
		if answer.Code == http.StatusOK {
			fmt.Println(answer.Body)
		}
	}
	// Output:
	// 200 true true
	// Hello, corp:ada of support.
	// 401 false true
}
