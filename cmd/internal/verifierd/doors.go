package verifierd

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/verifier/extauthz"

	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/verifier"
)

// forwardAuthSettings are as verifier.ForwardAuth says, and where it listens.
type forwardAuthSettings struct {
	// Listen is where the proxy in front asks, at /authz. Empty: nowhere.
	Listen string `yaml:"listen"`
	// Upstream is the name of the upstream that it forwards to.
	Upstream string `yaml:"upstream"`
	// Trusted are the networks that it asks from.
	Trusted []string `yaml:"trusted"`
	// Headers are original (nginx) or forwarded (Traefik, Caddy).
	Headers string `yaml:"headers"`
}

func (s *forwardAuthSettings) check(p *config.Problems) {
	if s.Listen == "" {
		p.Check(s.Upstream == "" && len(s.Trusted) == 0 && s.Headers == "", "forward_auth.listen", "is required with the rest")
		return
	}
	checkDoor(p, "forward_auth", s.Listen, s.Upstream, s.Trusted)
	p.Check(s.Headers == "original" || s.Headers == "forwarded", "forward_auth.headers", "want original (nginx) or forwarded (Traefik, Caddy)")
}

// extAuthzSettings are as extauthz.New says, and where it listens.
type extAuthzSettings struct {
	// Listen is where Envoy asks, by gRPC. Empty: nowhere.
	Listen string `yaml:"listen"`
	// Upstream is the name of the upstream that it forwards to.
	Upstream string `yaml:"upstream"`
	// Trusted are the networks that it asks from.
	Trusted []string `yaml:"trusted"`
}

func (s *extAuthzSettings) check(p *config.Problems) {
	if s.Listen == "" {
		p.Check(s.Upstream == "" && len(s.Trusted) == 0, "ext_authz.listen", "is required with the rest")
		return
	}
	checkDoor(p, "ext_authz", s.Listen, s.Upstream, s.Trusted)
}

// checkDoor checks what all doors have.
func checkDoor(p *config.Problems, path, listen, upstream string, trusted []string) {
	_, _, err := net.SplitHostPort(listen)
	p.Check(err == nil, path+".listen", "want host:port")
	p.Check(upstream != "", path+".upstream", "is required")
	p.Check(len(trusted) > 0, path+".trusted", "name the networks that the proxy asks from")
	for i, n := range trusted {
		_, err := netip.ParsePrefix(n)
		p.Check(err == nil, path+".trusted["+strconv.Itoa(i)+"]", "want a network such as 10.0.0.0/8")
	}
}

// open listens there, and returns what serves until its context ends; nil: nothing.
func (s *extAuthzSettings) open(ctx context.Context, v *verifier.Verifier, drain time.Duration) (runner, error) {
	if s.Listen == "" {
		return nil, nil
	}
	server, err := extauthz.New(v, s.Upstream, networks(s.Trusted))
	if err != nil {
		return nil, err
	}
	listeners, err := program.Listen(ctx, s.Listen)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(ended)
			late := time.AfterFunc(drain, server.Stop)
			defer late.Stop()
			server.GracefulStop()
		})
		err := server.Serve(listeners[0])
		if !stop() {
			<-ended
		}
		return err
	}, nil
}

// handler is what answers there; nil: nothing.
func (s *forwardAuthSettings) handler(v *verifier.Verifier) (http.Handler, error) {
	if s.Listen == "" {
		return nil, nil
	}
	return v.ForwardAuth(verifier.ForwardAuth{Upstream: s.Upstream, Trusted: networks(s.Trusted), Headers: s.Headers})
}
