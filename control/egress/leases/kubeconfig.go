package leases

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A kubeconfig is the cluster and user of a kubeconfig's current context.
type kubeconfig struct {
	server string
	name   string // in the server's certificate, if it is not its host
	skip   bool   // who the server is does not matter
	ca     pair
	cert   pair
	key    pair
	token  string
	file   string // of a token
}

// A pair is a file, or what it would hold.
type pair struct{ file, data string }

func (p pair) none() bool { return p == pair{} }

func (p pair) read() ([]byte, error) {
	if p.data != "" {
		return base64.StdEncoding.DecodeString(p.data)
	}
	return os.ReadFile(p.file)
}

// A kubeconfigFile is the file (client-go, tools/clientcmd/api/v1).
type kubeconfigFile struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster string `yaml:"cluster"`
			User    string `yaml:"user"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string `yaml:"name"`
		Cluster struct {
			Server string `yaml:"server"`
			Name   string `yaml:"tls-server-name"`
			Skip   bool   `yaml:"insecure-skip-tls-verify"`
			CA     string `yaml:"certificate-authority"`
			CAData string `yaml:"certificate-authority-data"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string `yaml:"name"`
		User struct {
			Cert      string `yaml:"client-certificate"`
			CertData  string `yaml:"client-certificate-data"`
			Key       string `yaml:"client-key"`
			KeyData   string `yaml:"client-key-data"`
			Token     string `yaml:"token"`
			TokenFile string `yaml:"tokenFile"`
			Username  string `yaml:"username"`
			Exec      any    `yaml:"exec"`
			Provider  any    `yaml:"auth-provider"`
		} `yaml:"user"`
	} `yaml:"users"`
}

// readKubeconfig reads a file.
func readKubeconfig(path string) (*kubeconfig, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	k, err := parseKubeconfig(b, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return k, nil
}

// parseKubeconfig reads the text of a file in dir, to which paths in it relate.
func parseKubeconfig(b []byte, dir string) (*kubeconfig, error) {
	var f kubeconfigFile
	if err := yaml.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	k := new(kubeconfig)
	for _, c := range f.Contexts {
		if c.Name != f.Current {
			continue
		}
		err := errors.Join(k.takeCluster(&f, c.Context.Cluster, dir), k.takeUser(&f, c.Context.User, dir))
		return k, err
	}
	return nil, fmt.Errorf("there is no context %q, which current-context names", f.Current)
}

func (k *kubeconfig) takeCluster(f *kubeconfigFile, name, dir string) error {
	for _, c := range f.Clusters {
		if c.Name != name {
			continue
		}
		k.server, k.name, k.skip = c.Cluster.Server, c.Cluster.Name, c.Cluster.Skip
		k.ca = pair{within(dir, c.Cluster.CA), c.Cluster.CAData}
		u, err := url.Parse(k.server)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return fmt.Errorf("cluster %q: server %q is no https://HOST:PORT", name, k.server)
		}
		return nil
	}
	return fmt.Errorf("there is no cluster %q", name)
}

func (k *kubeconfig) takeUser(f *kubeconfigFile, name, dir string) error {
	for _, u := range f.Users {
		if u.Name != name {
			continue
		}
		if u.User.Exec != nil || u.User.Provider != nil || u.User.Username != "" {
			return fmt.Errorf("user %q: programs, providers and passwords are not supported: give a certificate, a token or a tokenFile", name)
		}
		k.cert, k.key = pair{within(dir, u.User.Cert), u.User.CertData}, pair{within(dir, u.User.Key), u.User.KeyData}
		k.token, k.file = u.User.Token, within(dir, u.User.TokenFile)
		if k.cert.none() != k.key.none() {
			return fmt.Errorf("user %q: a certificate and its key go together", name)
		}
		return nil
	}
	if name != "" {
		return fmt.Errorf("there is no user %q", name)
	}
	return nil
}

func within(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// bearer is the token of a request: its file may change.
func (k *kubeconfig) bearer() (string, error) {
	if k.file == "" {
		return k.token, nil
	}
	b, err := os.ReadFile(k.file)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// transport connects to the API server. A connection that is dead is noticed
// within 25 s.
func (k *kubeconfig) transport() (*http.Transport, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: k.name, InsecureSkipVerify: k.skip}
	if !k.ca.none() {
		pem, err := k.ca.read()
		if err != nil {
			return nil, fmt.Errorf("read the cluster's authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the cluster's authorities hold no certificate in PEM")
		}
	}
	if !k.cert.none() {
		cert, err := k.pair()
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{cert}
	}
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 5 * time.Second}
	return &http.Transport{
		DialContext: d.DialContext, TLSClientConfig: c, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: listTime, IdleConnTimeout: time.Minute,
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}, nil
}

func (k *kubeconfig) pair() (tls.Certificate, error) {
	cert, err1 := k.cert.read()
	key, err2 := k.key.read()
	if err := errors.Join(err1, err2); err != nil {
		return tls.Certificate{}, fmt.Errorf("read the user's certificate: %w", err)
	}
	return tls.X509KeyPair(cert, key)
}
