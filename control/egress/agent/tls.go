package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// transport returns what a new link to the server called name is secured by.
func (f Files) transport(name string) (credentials.TransportCredentials, error) {
	if f.CA == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read the servers' authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", f.CA)
	}
	c := &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12, NextProtos: f.ALPN}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("read our certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c), nil
}

// authorization returns the header that a new stream carries, or "".
func (f Files) authorization() (string, error) {
	if f.Token == "" {
		return "", nil
	}
	b, err := os.ReadFile(f.Token)
	if err != nil {
		return "", fmt.Errorf("read the service account's token: %w", err)
	}
	return "Bearer " + strings.TrimSpace(string(b)), nil
}
