package upstream_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// authority is a private CA with its files.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	last int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	a.sign("ca", a.cert, &a.key.PublicKey)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return a.path(name)
}

func (a *authority) sign(name string, cert *x509.Certificate, key *ecdsa.PublicKey) {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key, a.key)
	if err == nil && cert == a.cert {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
}

// issue makes a certificate for a name.
func (a *authority) issue(name string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.last++
	a.sign(name, &x509.Certificate{
		SerialNumber: big.NewInt(1 + a.last), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".key", "PRIVATE KEY", der)
	pair, err := tls.LoadX509KeyPair(a.path(name+".pem"), a.path(name+".key"))
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

// serve serves what the server sees of a request, over TLS.
func (a *authority) serve(name string, edit func(*tls.Config)) string {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			client = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Proto, client, r.TLS.ServerName)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{a.issue(name)}}
	if edit != nil {
		edit(srv.TLS)
	}
	srv.StartTLS()
	a.t.Cleanup(srv.Close)
	return srv.URL
}

func TestTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	ours.issue("verifier")
	others.issue("verifier")
	clients := x509.NewCertPool()
	clients.AddCert(ours.cert)
	mutual := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clients }
	plain, asking := ours.serve("llm.test", nil), ours.serve("llm.test", mutual)
	old := ours.serve("llm.test", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11; c.MinVersion = tls.VersionTLS10 })
	ca := ours.path("ca.pem")
	for name, row := range map[string]struct {
		c    upstream.Config
		want string // Empty: an error.
	}{
		"good":                     {upstream.Config{URL: plain, CA: ca, ServerName: "llm.test"}, "HTTP/2.0 nobody llm.test"},
		"HTTP/1.1":                 {upstream.Config{URL: plain, CA: ca, ServerName: "llm.test", NoHTTP2: true}, "HTTP/1.1 nobody llm.test"},
		"a certificate":            {upstream.Config{URL: asking, CA: ca, ServerName: "llm.test", Cert: ours.path("verifier.pem"), Key: ours.path("verifier.key")}, "HTTP/2.0 verifier llm.test"},
		"no certificate":           {upstream.Config{URL: asking, CA: ca, ServerName: "llm.test"}, ""},
		"another's certificate":    {upstream.Config{URL: asking, CA: ca, ServerName: "llm.test", Cert: others.path("verifier.pem"), Key: others.path("verifier.key")}, ""},
		"another name":             {upstream.Config{URL: plain, CA: ca, ServerName: "other.test"}, ""},
		"the URL's name":           {upstream.Config{URL: plain, CA: ca}, ""},
		"the system's authorities": {upstream.Config{URL: plain, ServerName: "llm.test"}, ""},
		"another authority":        {upstream.Config{URL: plain, CA: others.path("ca.pem"), ServerName: "llm.test"}, ""},
		"an old version":           {upstream.Config{URL: old, CA: ca, ServerName: "llm.test"}, ""},
	} {
		status, body, err := send(t, newServer(t, row.c))
		if row.want == "" && err == nil || row.want != "" && (err != nil || status != 200 || body != row.want) {
			t.Errorf("%s: %d %q, %v, want %q", name, status, body, err, row.want)
		}
	}
	// What can't be read stops the start.
	for name, c := range map[string]upstream.Config{
		"no CA":           {CA: ours.path("none")},
		"a CA of nothing": {CA: ours.path("verifier.key")},
		"no certificate":  {Cert: ours.path("none"), Key: ours.path("verifier.key")},
		"another's key":   {Cert: ours.path("verifier.pem"), Key: others.path("verifier.key")},
	} {
		c.Name, c.URL, c.Models = "u", plain, []string{"*"}
		if _, err := upstream.NewSet([]upstream.Config{c}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	// A replica whose certificate is bad got nothing of the call: another may have it.
	wrong := ours.serve("other.test", nil)
	s := newServer(t, upstream.Config{URLs: []string{wrong, plain}, CA: ca, ServerName: "llm.test"})
	for range 4 {
		if status, _, err := send(t, s); status != 200 || err != nil {
			t.Errorf("beside a replica with another's certificate: %d, %v", status, err)
		}
	}
}

func TestH2C(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	for h2c, want := range map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"} {
		if _, body, err := send(t, newServer(t, upstream.Config{URL: srv.URL, H2C: h2c})); body != want || err != nil {
			t.Errorf("h2c %v: %q, %v, want %q", h2c, body, err, want)
		}
	}
}

// TestConnectTimeout: a server that takes connections and says nothing in TLS.
func TestConnectTimeout(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newServer(t, upstream.Config{URL: "https://" + l.Addr().String(), ConnectTimeout: 10 * time.Millisecond})
	_, err = s.RoundTrip(post(ctx, "{}"))
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() || ctx.Err() != nil {
		t.Errorf("RoundTrip = %v, want the timeout as it is", err)
	}
}
