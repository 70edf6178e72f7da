// Package pages are the few pages that the issuer shows to a person in a
// browser. They run no script, load nothing from elsewhere, and show what a
// stranger wrote as text only.
package pages

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
)

//go:embed *.html
var files embed.FS

//go:embed style.css
var style []byte

var templates = template.Must(template.ParseFS(files, "*.html"))

// Enter asks for the code that a device shows.
type Enter struct {
	UserCode  string
	Providers []string // To log in at. One of several is chosen on the page.
	Problem   string   // What was wrong with the code before. May be empty.
}

// Confirm asks whether a device may log in.
type Confirm struct {
	Identity string // Who has just logged in.
	UserCode string
	Device   string // What the device says of itself.
	Address  string // Where it asked from.
	Ago      string // When it asked.
	Ticket   string // Goes back with the answer.
}

// Done says how it ended.
type Done struct {
	Title, Text string
}

// Write shows a page: an [Enter], a [Confirm] or a [Done].
func Write(w http.ResponseWriter, status int, page any) error {
	name := map[string]string{"pages.Enter": "enter.html", "pages.Confirm": "confirm.html", "pages.Done": "done.html"}[fmt.Sprintf("%T", page)]
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, page); err != nil {
		return fmt.Errorf("making a page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer") // The address may hold a code.
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	// No form-action: browsers apply it to redirects too, and the way leads to
	// the identity provider.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // The browser may have gone; nothing is left to do.
	return nil
}

// Style serves the pages' one style sheet.
func Style(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=3600")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(style) // As above.
}
