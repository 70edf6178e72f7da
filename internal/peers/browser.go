package peers

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Browser is a headless Chromium with an empty profile and one tab. It reaches
// loopback and nothing else. Its methods fail the test if what they wait for
// does not come.
type Browser struct {
	t   testing.TB
	ctx context.Context
	out *output
}

// Page is what a person sees.
type Page struct {
	URL  string // of the address bar
	Text string // of the body, as rendered
}

// NewBrowser starts a browser that lives until the test ends.
func NewBrowser(t testing.TB) *Browser {
	t.Helper()
	b := &Browser{t: t, out: new(output)}
	flags := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)),
		// Only our own pages are opened, and the sandbox needs what root and
		// many containers don't have.
		chromedp.Flag("no-sandbox", true),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
		chromedp.Flag("enable-logging", "stderr"),
		chromedp.CombinedOutput(b.out),
	)
	// Not the test's context: it ends before the clean-up, and the browser is
	// to be closed, not cut off. chromedp makes the profile, starts Chromium on
	// a pipe that ends it when the test dies, and at cancel kills each process
	// that has the profile before it removes that.
	allocator, closeBrowser := chromedp.NewExecAllocator(context.Background(), flags...)
	ctx, _ := chromedp.NewContext(allocator,
		chromedp.WithErrorf(func(string, ...any) {})) // Events newer than the library are no errors.
	b.ctx = ctx
	t.Cleanup(func() {
		if t.Failed() {
			b.logPage()
		}
		b.close()
		closeBrowser()
		if console := b.console(); t.Failed() && console != "" {
			t.Logf("Chromium's console:\n%s", console)
		}
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting Chromium: %v\n%s", err, b.out)
	}
	return b
}

// close lets Chromium end its own processes, for a while; what is left is then
// killed.
func (b *Browser) close() {
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	_ = chromedp.Cancel(ctx)
}

// console returns what pages said on their consoles: errors of scripts, what a
// Content-Security-Policy stopped. Chromium's complaints about a machine
// without a desktop are left out.
func (b *Browser) console() string {
	var said strings.Builder
	for line := range strings.Lines(b.out.String()) {
		if _, message, ok := strings.Cut(line, ":CONSOLE:"); ok {
			said.WriteString(message)
		}
	}
	return said.String()
}

// chromium returns the path of the installed browser.
func chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "chromium")
	return ""
}

// Open opens the address and waits until the page has loaded, after any
// redirects.
func (b *Browser) Open(url string) {
	b.t.Helper()
	if err := b.do(chromedp.Navigate(url)); err != nil {
		b.t.Fatalf("opening %s: %v", url, err)
	}
}

// Fill types the text into the field that the CSS selector finds, in place of
// what it held.
func (b *Browser) Fill(selector, text string) {
	b.t.Helper()
	field := chromedp.CSS(selector)
	err := b.do(chromedp.WaitVisible(field))
	if err == nil {
		_, err = evaluate[bool](b, `!document.querySelector(`+quote(selector)+`).select()`)
	}
	if err == nil {
		err = b.do(chromedp.SendKeys(field, "\b"+text)) // backspace removes what is selected
	}
	if err != nil {
		b.t.Fatalf("filling in %s: %v", selector, err)
	}
}

// Click clicks what the CSS selector finds, once it is visible. It does not
// wait for the page that follows; see [Browser.WaitURL].
func (b *Browser) Click(selector string) {
	b.t.Helper()
	if err := b.do(chromedp.Click(chromedp.CSS(selector))); err != nil {
		b.t.Fatalf("clicking %s: %v", selector, err)
	}
}

// WaitURL waits until a page whose address starts with prefix has loaded, and
// returns it. The page that was there before is such a page too, if it fits.
func (b *Browser) WaitURL(prefix string) Page {
	b.t.Helper()
	return b.walk("a page at "+prefix, atPrefix(prefix), func() {})
}

// WaitText waits until a page that shows the text has loaded, and returns it.
func (b *Browser) WaitText(text string) Page {
	b.t.Helper()
	return b.walk("a page that says "+text, func(p Page) bool { return strings.Contains(p.Text, text) }, func() {})
}

// Screenshot writes the window as a PNG.
func (b *Browser) Screenshot(file string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(file, png, 0o600)
	}
	if err != nil {
		b.t.Fatalf("taking a screenshot: %v", err)
	}
}

// LoginOIDC opens the address, goes through the pages of oidc-provider that it
// meets (login as the account, consent), and returns the page at the end of the
// redirects, whose address starts with until.
func (b *Browser) LoginOIDC(url, account, until string) Page {
	b.t.Helper()
	const login, consent = `form:has(input[name=prompt][value=login])`, `form:has(input[name=prompt][value=consent])`
	b.Open(url)
	return b.walk("a page at "+until, atPrefix(until), func() {
		switch {
		case b.firstSight(login):
			b.Fill(login+` input[name=login]`, account)
			b.Fill(login+` input[name=password]`, "any password")
			b.Click(login + ` button[type=submit]`)
		case b.firstSight(consent):
			b.Click(consent + ` button[type=submit]`)
		}
	})
}

// LoginForm opens the address, fills in a form with the ids username and
// password, clicks the id login, and returns the page at the end of the
// redirects, whose address starts with until.
func (b *Browser) LoginForm(url, username, password, until string) Page {
	b.t.Helper()
	b.Open(url)
	b.Fill("#username", username)
	b.Fill("#password", password)
	b.Click("#login")
	return b.WaitURL(until)
}

func atPrefix(prefix string) func(Page) bool {
	return func(p Page) bool { return strings.HasPrefix(p.URL, prefix) }
}

// walk calls step on each page until one that is the wanted one has loaded.
func (b *Browser) walk(what string, wanted func(Page) bool, step func()) Page {
	b.t.Helper()
	var page Page
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		// An error is a page that just goes: the next look finds the next one.
		if p, err := b.page(); err == nil {
			if page = p; wanted(page) {
				return page
			}
			if strings.HasPrefix(page.URL, "chrome-error:") {
				b.t.Fatalf("waiting for %s: Chromium says:\n%s", what, page.Text)
			}
			step()
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waiting for %s: still at %s, which says:\n%s", what, page.URL, page.Text)
		}
	}
}

// firstSight tells whether the page holds what the selector finds, once for
// each page: a page that was acted upon may stay until the next one has come.
func (b *Browser) firstSight(selector string) bool {
	found, err := evaluate[bool](b, `!window.seenByTest && !!document.querySelector(`+quote(selector)+`) && (window.seenByTest = true)`)
	return err == nil && found
}

// page returns the page once it has loaded.
func (b *Browser) page() (Page, error) {
	return evaluate[Page](b, `new Promise(loaded => {
		const page = () => loaded({URL: location.href, Text: document.body.innerText});
		document.readyState === 'complete' ? page() : addEventListener('load', page);
	})`)
}

// logPage says where the browser stands, in the log of a test that failed.
func (b *Browser) logPage() {
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	url, err := chromedp.Run(ctx, chromedp.Location())
	b.t.Logf("Chromium stands at %s (error: %v)", url, err)
}

func (b *Browser) do(steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}

// evaluate runs a JavaScript expression in the page and awaits its value.
func evaluate[T any](b *Browser, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// quote makes a JavaScript literal of s.
func quote(s string) string {
	literal, _ := json.Marshal(s) // a string always marshals
	return string(literal)
}
