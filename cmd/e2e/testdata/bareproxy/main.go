// Command bareproxy is what "make bench-verifier" holds the verifier against: a
// reverse proxy of the standard library that checks nothing. With "tuned" its
// transport and buffers are as ours.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"
)

type pool struct{ sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.Pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *pool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }

func main() {
	listen, upstream, kind := os.Args[1], os.Args[2], os.Args[3]
	to, err := url.Parse(upstream)
	if err != nil {
		log.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }}
	if kind == "tuned" {
		proxy.BufferPool = &pool{}
		proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 90 * time.Second, DisableCompression: true, WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10}
	}
	server := &http.Server{Addr: listen, Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
