// Package extauthz answers Envoy's external authorisation (ext_authz over gRPC,
// envoy.service.auth.v3) with the verifier's decisions.
//
// It owns what an Envoy request says of a call and how a decision is told to
// Envoy. It refuses to know how one is made: see [verifier.Verifier.Authz].
package extauthz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/hourpass/hourpass/verifier"
)

// MaxMessage bounds a question, body and all, in bytes. Envoy's
// max_request_bytes must be below it.
const MaxMessage = 16 << 20

// server answers for one upstream.
type server struct {
	auth.UnimplementedAuthorizationServer
	authz   http.Handler
	trusted []netip.Prefix
}

// New returns a gRPC server that decides about calls that Envoy forwards to the
// upstream of that name. Only peers in the trusted networks may ask: who asks says
// what the call is.
func New(v *verifier.Verifier, upstream string, trusted []netip.Prefix) (*grpc.Server, error) {
	if len(trusted) == 0 {
		return nil, errors.New("configuring ext_authz: name the networks that Envoy asks from")
	}
	authz, err := v.Authz(upstream)
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(MaxMessage))
	auth.RegisterAuthorizationServer(s, &server{authz: authz, trusted: trusted})
	return s, nil
}

// Check is asked by Envoy before it forwards a call.
func (s *server) Check(ctx context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
	if !s.trusts(ctx) {
		return nil, status.Error(codes.PermissionDenied, "only Envoy may ask, from a network that is trusted")
	}
	r, err := call(ctx, q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	w := &memory{header: http.Header{}}
	s.authz.ServeHTTP(w, r)
	if w.status == http.StatusOK {
		return allowed(w.header), nil
	}
	return denied(w), nil
}

func (s *server) trusts(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	tcp, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(s.trusted, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// call is the request that a question is about.
func call(ctx context.Context, q *auth.CheckRequest) (*http.Request, error) {
	about := q.GetAttributes().GetRequest().GetHttp()
	if about == nil {
		return nil, errors.New("the question is about no HTTP request")
	}
	path, query, _ := strings.Cut(about.GetPath(), "?")
	r := &http.Request{
		Method: about.GetMethod(), RequestURI: about.GetPath(), URL: &url.URL{Path: path, RawQuery: query}, Host: about.GetHost(),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, RemoteAddr: source(q),
	}
	for name, value := range about.GetHeaders() {
		if !strings.HasPrefix(name, ":") {
			name = http.CanonicalHeaderKey(name)
			r.Header[name] = append(r.Header[name], value)
		}
	}
	r.Body, r.ContentLength = body(about)
	return r.WithContext(ctx), nil
}

// source is the address of Envoy's client.
func source(q *auth.CheckRequest) string {
	at := q.GetAttributes().GetSource().GetAddress().GetSocketAddress()
	return net.JoinHostPort(at.GetAddress(), strconv.FormatUint(uint64(at.GetPortValue()), 10))
}

// body is what Envoy has sent of the body. Of one that may be cut off, or is not
// there, nothing is seen.
func body(about *auth.AttributeContext_HttpRequest) (io.ReadCloser, int64) {
	bytesOf := about.GetRawBody()
	if len(bytesOf) == 0 {
		bytesOf = []byte(about.GetBody())
	}
	size := int64(len(bytesOf))
	announced, err := strconv.ParseInt(about.GetHeaders()["content-length"], 10, 64)
	if err != nil {
		announced = 0
	}
	cut := about.GetHeaders()["x-envoy-auth-partial-body"] != "false"
	// Size is that of the whole, or -1 where Envoy does not know it.
	if size == 0 || cut || about.GetSize() >= 0 && about.GetSize() != size {
		return nil, announced
	}
	return io.NopCloser(bytes.NewReader(bytesOf)), size
}

// notForwarded are headers of the client's that the model server must not see.
var notForwarded = []string{"authorization", "x-api-key", "api-key", "x-goog-api-key", "x-envoy-auth-partial-body"}

func allowed(h http.Header) *auth.CheckResponse {
	ok := &auth.OkHttpResponse{HeadersToRemove: notForwarded}
	for _, name := range append([]string{"X-Request-Id"}, verifier.IdentityHeaders...) {
		ok.Headers = append(ok.Headers, header(name, h.Get(name)))
	}
	return &auth.CheckResponse{
		Status:       &rpc.Status{Code: int32(codes.OK)},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok},
	}
}

func denied(w *memory) *auth.CheckResponse {
	no := &auth.DeniedHttpResponse{Status: &envoytype.HttpStatus{Code: envoytype.StatusCode(w.status)}, Body: w.body.String()} //nolint:gosec // Of our own answer.
	for name, values := range w.header {
		if name != "Content-Length" && name != "Connection" { // Envoy's to say.
			no.Headers = append(no.Headers, header(name, values[0]))
		}
	}
	return &auth.CheckResponse{
		Status:       &rpc.Status{Code: int32(codes.PermissionDenied), Message: fmt.Sprintf("refused with %d", w.status)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: no},
	}
}

// header takes the place of whatever the client sent under that name.
func header(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header:       &core.HeaderValue{Key: strings.ToLower(name), Value: value},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, KeepEmptyValue: true,
	}
}

// memory is an answer for Envoy to give.
type memory struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (m *memory) Header() http.Header { return m.header }

func (m *memory) WriteHeader(status int) { m.status = status }

func (m *memory) Write(p []byte) (int, error) { return m.body.Write(p) }
