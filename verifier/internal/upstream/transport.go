package upstream

import (
	"net"
	"net/http"
	"time"
)

// newTransport has a pool as large as a busy verifier needs: with the two idle
// connections of net/http, every second call would open one.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    512,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},

		// An answer is passed on as it comes and may be read on its way: nobody
		// asks for compression, neither we nor the client.
		DisableCompression: true,
	}
}
