package alert_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
)

// postOffice is an SMTP server that takes one letter.
type postOffice struct {
	addr    string
	letters chan string
}

const mailPassword = "a-word-for-letters"

// openOffice speaks RFC 5321 as far as a letter takes it, with STARTTLS, or TLS
// from the first byte, or neither.
func openOffice(t *testing.T, kind string) (*postOffice, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	o := &postOffice{l.Addr().String(), make(chan string, 8)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if kind == "implicit" {
				conn = tls.Server(conn, server)
			}
			go o.serve(conn, server, kind)
		}
	}()
	return o, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

func (o *postOffice) serve(conn net.Conn, secure *tls.Config, kind string) {
	defer func() { _ = conn.Close() }()
	in, known, encrypted := bufio.NewReader(conn), false, kind == "implicit"
	say := func(line string) { _, _ = io.WriteString(conn, line+"\r\n") }
	say("220 office")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-office")
			if kind == "starttls" && !encrypted {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go on")
			conn = tls.Server(conn, secure)
			in, encrypted = bufio.NewReader(conn), true
		case "AUTH":
			said, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(rest, "PLAIN "))
			if known = encrypted && string(said) == "\x00hourpass\x00"+mailPassword; known {
				say("235 good")
			} else {
				say("535 who are you")
			}
		case "DATA":
			say("354 go on")
			letter := ""
			for {
				line, err := in.ReadString('\n')
				if err != nil || line == ".\r\n" {
					break
				}
				letter += line
			}
			o.letters <- letter
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			if kind != "none" && !known && (strings.EqualFold(verb, "MAIL") || strings.EqualFold(verb, "RCPT")) {
				say("530 who are you")
			} else {
				say("250 good")
			}
		}
	}
}

var spending = alert.Event{
	ID: "E1", Time: start, Kind: alert.KeySpending, Severity: alert.Warning, Reason: "spending", Key: "K\r\nBcc: eve@example.com",
	Text: "A key spent.\r\n.\r\nMAIL FROM:<eve@example.com>", Owner: "corp:<!channel>", Team: "T", Decision: "D",
}

func TestMail(t *testing.T) {
	for _, kind := range []string{"starttls", "implicit", "none"} {
		office, roots := openOffice(t, kind)
		c := alert.MailConfig{Server: office.addr, From: "hourpass@example.com", To: []string{"sec@example.com", "ops@example.com"}, TLS: kind, Roots: roots, User: "hourpass", Password: mailPassword}
		if kind == "none" {
			c.User, c.Password = "", ""
		}
		m, err := alert.NewMail(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Send(t.Context(), spending, start); err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		letter := <-office.letters
		head, body, _ := strings.Cut(letter, "\r\n\r\n")
		for _, want := range []string{"Message-ID: <E1@hourpass>", "Subject: ", "[warning]", "<sec@example.com>", "<ops@example.com>"} {
			if !strings.Contains(head, want) {
				t.Errorf("%s: the head lacks %q:\n%s", kind, want, head)
			}
		}
		if strings.Contains(head, "\nBcc:") || !strings.Contains(body, "A key spent.") || !strings.Contains(body, "Team: T") || !strings.Contains(body, "MAIL FROM") {
			t.Errorf("%s: the letter is\n%s", kind, letter)
		}
		if len(office.letters) > 0 {
			t.Errorf("%s: there are more letters", kind)
		}
	}
}

func TestMailRefuses(t *testing.T) {
	office, roots := openOffice(t, "starttls")
	good := alert.MailConfig{Server: office.addr, From: "hourpass@example.com", To: []string{"sec@example.com"}, Roots: roots, User: "hourpass", Password: mailPassword}
	for name, spoil := range map[string]func(*alert.MailConfig){
		"no server":           func(c *alert.MailConfig) { c.Server = "" },
		"no port":             func(c *alert.MailConfig) { c.Server = "127.0.0.1" },
		"nobody":              func(c *alert.MailConfig) { c.To = nil },
		"no address":          func(c *alert.MailConfig) { c.To = []string{"x\r\nBcc: y@example.com"} },
		"from nobody":         func(c *alert.MailConfig) { c.From = "" },
		"another TLS":         func(c *alert.MailConfig) { c.TLS = "maybe" },
		"a password in clear": func(c *alert.MailConfig) { c.TLS = "none" },
		"in clear, far away":  func(c *alert.MailConfig) { c.TLS, c.Server, c.User, c.Password = "none", "mail.example.com:25", "", "" },
		"no user":             func(c *alert.MailConfig) { c.User = "" },
	} {
		c := good
		spoil(&c)
		if _, err := alert.NewMail(c); err == nil || strings.Contains(err.Error(), mailPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, spoil := range map[string]func(*alert.MailConfig){
		"the wrong password": func(c *alert.MailConfig) { c.Password += "x" },
		"another authority":  func(c *alert.MailConfig) { _, c.Roots = openOffice(t, "starttls") },
		"TLS from the start": func(c *alert.MailConfig) { c.TLS = "implicit" },
	} {
		c := good
		spoil(&c)
		m, err := alert.NewMail(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Send(t.Context(), spending, start); err == nil || strings.Contains(err.Error(), mailPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A server without STARTTLS gets no letter in clear.
	plain, _ := openOffice(t, "plain")
	good.Server = plain.addr
	m, err := alert.NewMail(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Send(t.Context(), spending, start); err == nil {
		t.Error("a letter goes in clear")
	}
}

func TestSlack(t *testing.T) {
	status, got := http.StatusOK, make(chan string, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.Header.Get("Content-Type") + " " + string(b)
		w.WriteHeader(status)
	}))
	defer srv.Close()
	s, err := alert.NewSlack(srv.URL+"/services/a-secret", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), spending, start); err != nil {
		t.Fatal(err)
	}
	var body struct{ Text string }
	text := <-got
	if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "application/json ")), &body); err != nil ||
		!strings.HasPrefix(body.Text, "*warning* A key spent.") || !strings.Contains(body.Text, "Team: T") || strings.Contains(body.Text, "<!channel>") {
		t.Errorf("%s, %v", text, err)
	}
	status = http.StatusNotFound
	if err := s.Send(t.Context(), spending, start); err == nil || strings.Contains(err.Error(), "a-secret") {
		t.Errorf("of a 404: %v", err)
	}
	if _, err := alert.NewSlack("http://hooks.example.com/services/a-secret", 0); err == nil || strings.Contains(err.Error(), "a-secret") {
		t.Errorf("without TLS: %v", err)
	}
}
