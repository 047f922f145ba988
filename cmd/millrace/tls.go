package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"millrace/control/ovsdb/server"
)

// tlsFlags are the files for ssl endpoints, with the names that the programs
// of OVS have for them.
type tlsFlags struct {
	key, cert, caCert string
}

func (f *tlsFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.key, "private-key", "p", "", "file with our key, for ssl")
	fs.StringVarP(&f.cert, "certificate", "c", "", "file with our certificate, for ssl")
	fs.StringVarP(&f.caCert, "ca-cert", "C", "", "file with the certificates of authorities that sign the other side's, for ssl")
}

// args are the flags again, for a child.
func (f *tlsFlags) args() []string {
	var args []string
	for _, a := range [][2]string{{"--private-key", f.key}, {"--certificate", f.cert}, {"--ca-cert", f.caCert}} {
		if a[1] != "" {
			args = append(args, a[0], a[1])
		}
	}
	return args
}

// enough refuses endpoints, which flag names, that need files which are not
// given.
func (f *tlsFlags) enough(cmd *cobra.Command, flag string, endpoints []string) error {
	for _, e := range endpoints {
		kind, _, _ := strings.Cut(e, ":")
		if (kind == "ssl" || kind == "pssl") && (f.key == "" || f.cert == "" || f.caCert == "") {
			return usage(cmd, "%s: %s needs --private-key, --certificate and --ca-cert", flag, e)
		}
	}
	return nil
}

// load reads the files; there are none without the flags.
func (f *tlsFlags) load() (pair tls.Certificate, authorities *x509.CertPool, given bool, err error) {
	if *f == (tlsFlags{}) {
		return pair, nil, false, nil
	}
	pair, err = tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return pair, nil, false, fmt.Errorf("--certificate %s, --private-key %s: %w", f.cert, f.key, err)
	}
	pem, err := os.ReadFile(f.caCert)
	if err != nil {
		return pair, nil, false, fmt.Errorf("--ca-cert: %w", err)
	}
	authorities = x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return pair, nil, false, fmt.Errorf("--ca-cert %s: no certificate in it", f.caCert)
	}
	return pair, authorities, true, nil
}

// client is for connections that we make. The names in certificates are not
// looked at, as in OVS: who is signed by the authority is right.
func (f *tlsFlags) client() (*tls.Config, error) {
	pair, pool, given, err := f.load()
	if err != nil || !given {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // of the name only: VerifyConnection checks the chain
		VerifyConnection:   server.SignedBy(pool),
	}, nil
}

// server is for connections that others make. They must show a certificate.
func (f *tlsFlags) server() (*tls.Config, error) {
	pair, pool, given, err := f.load()
	if err != nil || !given {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAnyClientCert, VerifyConnection: server.SignedBy(pool),
	}, nil
}
