package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"millrace/control/ovsdb/schema"
)

// sslTable is the table whose row names the files for TLS, in the Open_vSwitch
// database and those of OVN.
const sslTable = "SSL"

// errNoKeys means that nobody has said which key to use.
var errNoKeys = errors.New("no key and certificate given; ovs-vsctl set-ssl names them")

// keyFiles are the names of PEM files.
type keyFiles struct{ key, cert, ca string }

// A stamp tells whether a file has changed.
type stamp struct {
	size int64
	time time.Time
}

// A keyring has the key for TLS: a fixed one, or that of files, which are read
// again when they have changed.
type keyring struct {
	fixed *tls.Config // of the configuration, or nil

	mu     sync.Mutex
	files  keyFiles
	stamps [3]stamp
	loaded *tls.Config // of the files; nil: not read yet
}

// follow gives k other files, and reports whether they are others.
func (k *keyring) follow(f keyFiles) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f == k.files {
		return false
	}
	k.files, k.loaded = f, nil
	return true
}

// keyFiles returns the files that the SSL row of a database with remotes names.
func (h *hub) keyFiles(columns []remoteColumn) keyFiles {
	for _, rc := range columns {
		db := h.database(rc.db)
		if db == nil || db.schema.Table(sslTable) == nil {
			continue
		}
		t := db.schema.Table(sslTable)
		for _, r := range db.rows.Rows(t) {
			text := func(name string) string {
				c := t.Column(name)
				if c == nil || !c.Type.IsScalar() || c.Type.Key.Atomic != schema.String {
					return ""
				}
				return r.Get(c)[0].Str()
			}
			return keyFiles{text("private_key"), text("certificate"), text("ca_cert")}
		}
	}
	return keyFiles{}
}

// server returns the configuration for the end that is connected to.
func (k *keyring) server() (*tls.Config, error) {
	if k.fixed != nil {
		return k.fixed, nil
	}
	return k.load()
}

// client returns the configuration for the end that connects. The names in
// certificates are not looked at, as in Open vSwitch: who is signed by the
// authority is right.
func (k *keyring) client() (*tls.Config, error) {
	conf, err := k.server()
	if err != nil {
		return nil, err
	}
	conf = conf.Clone()
	conf.InsecureSkipVerify = true // of the name only: VerifyConnection checks the chain
	if conf.VerifyConnection != nil || conf.VerifyPeerCertificate != nil {
		return conf, nil
	}
	pool := conf.RootCAs
	if pool == nil {
		pool = conf.ClientCAs
	}
	if pool == nil {
		return nil, errors.New("no authority given that the other end's certificate must be signed by")
	}
	conf.VerifyConnection = SignedBy(pool)
	return conf, nil
}

// load reads the files, unless they are as they were.
func (k *keyring) load() (*tls.Config, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files.key == "" || k.files.cert == "" || k.files.ca == "" {
		return nil, errNoKeys
	}
	var now [3]stamp
	for i, name := range []string{k.files.key, k.files.cert, k.files.ca} {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		now[i] = stamp{info.Size(), info.ModTime()}
	}
	if k.loaded != nil && now == k.stamps {
		return k.loaded, nil
	}
	conf, err := readKeys(k.files)
	if err != nil {
		return nil, err
	}
	k.loaded, k.stamps = conf, now
	return conf, nil
}

// readKeys reads PEM files.
func readKeys(f keyFiles) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s, private key %s: %w", f.cert, f.key, err)
	}
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA certificate %s: no certificate in it", f.ca)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAnyClientCert, VerifyConnection: SignedBy(pool),
	}, nil
}

// SignedBy checks that the other end's certificate comes from an authority of
// pool.
func SignedBy(pool *x509.CertPool) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the other end shows no certificate")
		}
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
}
