package toyidp

import (
	_ "embed"
	"html/template"
	"log/slog"
	"net/http"
)

//go:embed login.html
var loginHTML string

var loginPage = template.Must(template.New("login").Parse(loginHTML))

// page is what login.html shows.
type page struct {
	Login    string // The login's id. Empty: there is nothing to log in to, so no form.
	Client   string // Who asks.
	Username string // As typed before.
	Problem  string // One sentence. Empty: none.
}

// showLogin shows the form. Credentials in the Authorization header are taken at
// once, as a corporate network's integrated sign-on would, so that one
//
//	curl --location-trusted -u user:password <authorization URL>
//
// walks through the whole login.
func (p *Provider) showLogin(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if username, password, ok := r.BasicAuth(); ok {
		p.login(w, r, id, username, password)
		return
	}
	if id == "" { // After a logout, or a look around.
		p.show(w, r, http.StatusOK, page{Problem: "Nobody is waiting for a login. Start from your application."})
		return
	}
	l, err := p.store.AuthRequestByID(r.Context(), id)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	p.show(w, r, http.StatusOK, page{Login: id, Client: l.GetClientID()})
}

// takeLogin takes the form.
func (p *Provider) takeLogin(w http.ResponseWriter, r *http.Request) {
	p.login(w, r, r.PostFormValue("id"), r.PostFormValue("username"), r.PostFormValue("password"))
}

// login checks the credentials and sends the browser on its way back to the
// client, or shows the page again with 401.
func (p *Provider) login(w http.ResponseWriter, r *http.Request, id, username, password string) {
	l, err := p.store.AuthRequestByID(r.Context(), id)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	u, err := p.users.authenticate(username, password)
	if err != nil {
		// The name is not logged: people type passwords into the wrong field.
		p.log.Info("login refused", slog.String("client", l.GetClientID()))
		// No WWW-Authenticate: browsers would open a dialog over the page.
		p.show(w, r, http.StatusUnauthorized, page{
			Login: id, Client: l.GetClientID(), Username: username, Problem: "That user name and password do not go together.",
		})
		return
	}
	if err := p.store.finishLogin(id, u.Subject); err != nil {
		p.refuse(w, r, err)
		return
	}
	p.log.Info("login", slog.String("client", l.GetClientID()), slog.String("subject", u.Subject))
	http.Redirect(w, r, p.callback(r.Context(), id), http.StatusSeeOther)
}

// refuse answers for a login that does not exist, or no longer.
func (p *Provider) refuse(w http.ResponseWriter, r *http.Request, cause error) {
	p.log.Info("login refused", slog.String("err", cause.Error()))
	p.show(w, r, http.StatusBadRequest, page{Problem: "This login is unknown or has ended. Start again from your application."})
}

func (p *Provider) show(w http.ResponseWriter, r *http.Request, status int, content page) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // The URL names the login.
	h.Set("X-Content-Type-Options", "nosniff")
	// No form-action: browsers hold it against the redirect to the client as well.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	w.WriteHeader(status)
	if err := loginPage.Execute(w, content); err != nil { // The browser has gone.
		p.log.DebugContext(r.Context(), "showing the login page", slog.String("err", err.Error()))
	}
}
