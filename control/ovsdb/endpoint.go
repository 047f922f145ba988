package ovsdb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// ErrEndpoint says that an endpoint cannot be understood.
var ErrEndpoint = errors.New("bad database endpoint")

// An Endpoint says where a server listens, as in ovsdb(7).
type Endpoint struct {
	scheme  string // unix, tcp or ssl
	address string // path, or host and port
}

// defaultPort is the port of tcp: and ssl: endpoints that name none.
const defaultPort = "6640"

// ParseEndpoint reads unix:PATH, tcp:HOST[:PORT] or ssl:HOST[:PORT].
func ParseEndpoint(s string) (Endpoint, error) {
	scheme, address, _ := strings.Cut(s, ":")
	switch {
	case scheme != "unix" && scheme != "tcp" && scheme != "ssl":
		return Endpoint{}, fmt.Errorf("%w %q: want unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT", ErrEndpoint, s)
	case address == "":
		return Endpoint{}, fmt.Errorf("%w %q: no address", ErrEndpoint, s)
	case scheme == "unix":
		return Endpoint{scheme, address}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.Trim(address, "[]"), defaultPort
	}
	if host == "" || strings.ContainsAny(host, " /[]") {
		return Endpoint{}, fmt.Errorf("%w %q: no host", ErrEndpoint, s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Endpoint{}, fmt.Errorf("%w %q: port %q is no number from 1 to 65535", ErrEndpoint, s, port)
	}
	return Endpoint{scheme, net.JoinHostPort(host, port)}, nil
}

// String is the endpoint as ParseEndpoint takes it.
func (e Endpoint) String() string { return e.scheme + ":" + e.address }

// dial connects. secure is for ssl endpoints.
func (e Endpoint) dial(ctx context.Context, secure *tls.Config) (net.Conn, error) {
	var c net.Conn
	var err error
	switch e.scheme {
	case "ssl":
		if secure == nil {
			return nil, fmt.Errorf("connect to %s: %w: no key, certificate and CA certificate are given", e, ErrEndpoint)
		}
		c, err = (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", e.address)
	default:
		c, err = (&net.Dialer{}).DialContext(ctx, e.scheme, e.address)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e, err)
	}
	return c, nil
}
