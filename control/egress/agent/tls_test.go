package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"millrace/control/egress/konntest"
)

// An authority signs certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{key: newKey(t)}
	der := sign(t, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}, nil, a.key, a)
	a.cert, _ = x509.ParseCertificate(der)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, c, parent *x509.Certificate, key *ecdsa.PrivateKey, by *authority) []byte {
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// issue writes a pair for 127.0.0.1 that is good until end, and the authority.
func (a *authority) issue(t testing.TB, dir string, end time.Time) (ca, cert, key string) {
	k := newKey(t)
	der := sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: end, IPAddresses: []net.IP{{127, 0, 0, 1}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, k, a)
	kb, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	ca, cert, key = filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for file, block := range map[string]*pem.Block{ca: {Type: "CERTIFICATE", Bytes: a.cert.Raw}, cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: kb}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca, cert, key
}

// serverTLS is a server's side that wants certificates of an authority.
func (a *authority) serverTLS(t testing.TB) grpc.ServerOption {
	_, cert, key := a.issue(t, t.TempDir(), time.Now().Add(time.Hour))
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}))
}

// TestCertificates: both sides show theirs; a wrong one is told of in words, and
// one that is put in its place holds at the next attempt.
func TestCertificates(t *testing.T) {
	good, wrong := newAuthority(t), newAuthority(t)
	s := &konntest.Server{ID: "s1", Options: []grpc.ServerOption{good.serverTLS(t)}}
	s.Start(t, "127.0.0.1:0")
	dir := t.TempDir()
	r := start(t, func(c *Config) {
		c.Files.CA, c.Files.Cert, c.Files.Key = wrong.issue(t, dir, time.Now().Add(time.Hour))
		c.Servers = []string{s.Addr()}
	})
	says := func(part string) {
		t.Helper()
		eventually(t, part, func() bool { return strings.Contains(r.Status().Trouble, part) })
	}
	says("unknown authority")
	good.issue(t, dir, time.Now().Add(-time.Minute))
	says("expired certificate")
	good.issue(t, dir, time.Now().Add(time.Hour))
	eventually(t, "the right certificate is accepted", func() bool { return r.Status().Ready })
	if err := os.WriteFile(filepath.Join(dir, "ca"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := probe(t, ways[1], s, listen(t, echo)); err != nil {
		t.Errorf("a connection that is there minds its files: %v", err)
	}
}
