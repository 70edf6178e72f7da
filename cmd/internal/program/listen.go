package program

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/hourpass/hourpass/internal/config"
)

// TLS names the certificate that a listener shows.
type TLS struct {
	CertFile string `yaml:"cert_file"` // PEM, the chain included.
	KeyFile  string `yaml:"key_file"`  // PEM.
}

// Check adds what is wrong with the settings at path.
func (t TLS) Check(p *config.Problems, path string) {
	p.Check((t.CertFile == "") == (t.KeyFile == ""), path, "cert_file and key_file go together")
}

// Load returns nil where no certificate is named.
func (t TLS) Load() (*tls.Config, error) {
	if t.CertFile == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// CheckAddr adds a problem unless addr is host:port.
func CheckAddr(p *config.Problems, path, addr string) {
	_, _, err := net.SplitHostPort(addr)
	p.Check(err == nil, path, "want host:port")
}

// Listen opens a listener for each address, or none.
func Listen(ctx context.Context, addrs ...string) ([]net.Listener, error) {
	var open []net.Listener
	for _, addr := range addrs {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			for _, l := range open {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		open = append(open, l)
	}
	return open, nil
}
