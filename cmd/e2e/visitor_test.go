package e2e

import (
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// deviceCode is the answer to a device that asks for a login (RFC 8628, section
// 3.2).
type deviceCode struct {
	Device    string `json:"device_code"`
	User      string `json:"user_code"`
	Address   string `json:"verification_uri"`
	Complete  string `json:"verification_uri_complete"`
	ExpiresIn int    `json:"expires_in"`
	Interval  int    `json:"interval"`
}

func (h *house) askDevice(userAgent string) (d deviceCode) {
	h.t.Helper()
	req := h.request(http.MethodPost, "/device_authorization", "application/x-www-form-urlencoded", "client_id=hourpass-cli")
	req.Header.Set("User-Agent", userAgent)
	status, body := h.send(req)
	if err := json.Unmarshal(body, &d); err != nil || status != http.StatusOK || d.Device == "" {
		h.t.Fatalf("a device asks for a login: %d %s", status, body)
	}
	return d
}

func pollForm(d deviceCode) url.Values {
	return url.Values{"grant_type": {grantDevice}, "client_id": {"hourpass-cli"}, "device_code": {d.Device}}
}

// visitor is a browser without scripts: it keeps cookies, follows redirects,
// logs in at the toy provider, and sends forms as browsers do.
type visitor struct {
	h    *house
	http *http.Client
	site string // Sec-Fetch-Site of the forms it sends.

	status int
	header http.Header
	page   string
	at     *url.URL
}

func (h *house) newVisitor(user, password string) *visitor {
	v := &visitor{h: h, site: "same-origin"}
	v.http = &http.Client{Jar: newJar(), CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), h.idpURL) {
			r.SetBasicAuth(user, password)
		} else {
			r.Header.Del("Authorization")
		}
		return nil
	}}
	return v
}

func (v *visitor) do(req *http.Request) {
	v.h.t.Helper()
	res, err := v.http.Do(req)
	if err != nil {
		v.h.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		v.h.t.Fatal(err)
	}
	v.status, v.header, v.page, v.at = res.StatusCode, res.Header, string(b), res.Request.URL
}

// open follows a link.
func (v *visitor) open(address string) {
	v.h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		v.h.t.Fatal(err)
	}
	v.do(req)
}

// submit sends a form to the issuer.
func (v *visitor) submit(path string, form url.Values) {
	v.h.t.Helper()
	req := v.h.request(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode())
	if v.site != "" {
		req.Header.Set("Sec-Fetch-Site", v.site)
	}
	v.do(req)
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// answer presses a button of the page that asks for confirmation.
func (v *visitor) answer(button string) {
	v.h.t.Helper()
	form := url.Values{"answer": {button}}
	for _, field := range hiddenField.FindAllStringSubmatch(v.page, -1) {
		form.Set(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	v.submit("/device/confirm", form)
}

// enter opens the page, enters the code and logs in.
func (v *visitor) enter(d deviceCode) {
	v.h.t.Helper()
	v.open(d.Address)
	v.submit("/device", url.Values{"user_code": {d.User}, "provider": {"corp"}})
}

// ends expects the page that the browser is on.
func (v *visitor) ends(why string, status int, says string) {
	v.h.t.Helper()
	if v.status != status || !strings.Contains(v.page, says) {
		v.h.t.Errorf("%s: the browser is on %s: %d %s, want %d and %q", why, v.at, v.status, v.page, status, says)
	}
}

// waits expects what a device that polls is told. None but the last word leaves a
// record.
func (h *house) waits(why string, d deviceCode, code string) {
	h.t.Helper()
	before := len(h.records("issuer"))
	status, body := h.post("/token", "", pollForm(d))
	var e oauthError
	if err := json.Unmarshal(body, &e); err != nil || status != http.StatusBadRequest || e.Code != code {
		h.t.Errorf("%s: %d %s, want 400 %s", why, status, body, code)
	}
	records, still := len(h.records("issuer"))-before, code == "authorization_pending" || code == "slow_down"
	if still && records != 0 || !still && records != 1 {
		h.t.Errorf("%s: %d records", why, records)
	}
}

// deviceLogin logs in on a device whose person has a browser elsewhere.
func (h *house) deviceLogin(user, password string) login {
	h.t.Helper()
	d := h.askDevice("hourpass/1.0 (gpu-7)")
	v := h.newVisitor(user, password)
	v.enter(d)
	v.answer("approve")
	v.ends("approved", http.StatusOK, "Logged in")
	var l login
	h.mustPost("/token", "", pollForm(d), &l)
	return l
}

// cookie is what the issuer knows the browser by.
func (v *visitor) cookie() string {
	u, _ := url.Parse(v.h.issuer)
	for _, c := range v.http.Jar.Cookies(u) {
		if c.Name == "hourpass-browser" {
			return c.Value
		}
	}
	return ""
}
