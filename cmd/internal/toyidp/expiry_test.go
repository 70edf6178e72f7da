package toyidp_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/cmd/internal/toyidp"
)

// inProcess calls a provider without a socket, so that time can be the test's.
type inProcess struct {
	t        *testing.T
	provider http.Handler
	verifier string
}

func newInProcess(t *testing.T) inProcess {
	p, err := toyidp.New(configure("http://127.0.0.1:9400"))
	if err != nil {
		t.Fatal(err)
	}
	return inProcess{t: t, provider: p, verifier: oauth2.GenerateVerifier()}
}

func (p inProcess) do(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	p.provider.ServeHTTP(w, r)
	return w.Result()
}

// begin returns the URL of a new login's page.
func (p inProcess) begin() string {
	rp := oauth2.Config{ClientID: "cli", RedirectURL: callback, Endpoint: oauth2.Endpoint{AuthURL: "/authorize"}, Scopes: []string{"openid", "offline_access"}}
	at, err := p.do(httptest.NewRequest(http.MethodGet, rp.AuthCodeURL("s", oauth2.S256ChallengeOption(p.verifier)), nil)).Location()
	if err != nil {
		p.t.Fatal(err)
	}
	return at.String()
}

// code logs Ada in and returns the code.
func (p inProcess) code() string {
	r := httptest.NewRequest(http.MethodGet, p.begin(), nil)
	r.SetBasicAuth(ada.Username, ada.Password)
	at, err := p.do(r).Location()
	if err != nil {
		p.t.Fatal(err)
	}
	back, err := p.do(httptest.NewRequest(http.MethodGet, at.String(), nil)).Location()
	if err != nil {
		p.t.Fatal(err)
	}
	return back.Query().Get("code")
}

// token returns the answer of the token endpoint for an authorization code.
// Padding is in the form too; no server minds a parameter it does not know.
func (p inProcess) token(code, padding string) *http.Response {
	form := url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"cli"}, "redirect_uri": {callback}, "code": {code}, "code_verifier": {p.verifier},
		"padding": {padding},
	}
	r := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return p.do(r)
}

func TestExpiry(t *testing.T) {
	for _, test := range []struct {
		name  string
		after time.Duration
		want  int
		thing func(p inProcess, wait func()) (status int)
	}{
		{"login page in time", 9 * time.Minute, http.StatusOK, loginPage},
		{"login page too late", 10 * time.Minute, http.StatusBadRequest, loginPage},
		{"code in time", 59 * time.Second, http.StatusOK, redeemCode},
		{"code too late", time.Minute, http.StatusBadRequest, redeemCode},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := test.thing(newInProcess(t), func() { time.Sleep(test.after) })
				if got != test.want {
					t.Errorf("after %v: %d, want %d", test.after, got, test.want)
				}
			})
		})
	}
}

func loginPage(p inProcess, wait func()) int {
	at := p.begin()
	wait()
	return p.do(httptest.NewRequest(http.MethodGet, at, nil)).StatusCode
}

func redeemCode(p inProcess, wait func()) int {
	code := p.code()
	wait()
	return p.token(code, "").StatusCode
}

// TestFlood: more logins than we keep push out the oldest, not the newest.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newInProcess(t)
		first := p.begin()
		time.Sleep(time.Second)
		var last string
		for range 1000 {
			last = p.begin()
		}
		for at, want := range map[string]int{first: http.StatusBadRequest, last: http.StatusOK} {
			if got := p.do(httptest.NewRequest(http.MethodGet, at, nil)).StatusCode; got != want {
				t.Errorf("login page: %d, want %d", got, want)
			}
		}
	})
}

// TestHugeBody is refused before anything is made of it.
func TestHugeBody(t *testing.T) {
	p := newInProcess(t)
	code := p.code()
	if got := p.token(code, strings.Repeat("x", 1<<20)).StatusCode; got != http.StatusBadRequest {
		t.Errorf("1 MiB token request: %d, want 400", got)
	}
	if got := p.token(code, "").StatusCode; got != http.StatusOK {
		t.Errorf("the same without padding: %d, want 200", got)
	}
}
