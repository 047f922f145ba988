// Package roster reads the file that says who may use an egress server.
package roster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"millrace/control/egress/l3"
)

// Nodes are heard of each second; operators with stock WireGuard only when they
// have something to say, and their keys are good for 3 minutes.
const (
	nodePatience     = 10 * time.Second
	operatorPatience = 3 * time.Minute
)

// A Roster is such a file.
type Roster struct {
	PrivateKey   string       `yaml:"private_key"` // file; relative to the roster's directory
	Port         uint16       `yaml:"port"`
	Addresses    []netip.Addr `yaml:"addresses"` // of the server's end
	Device       string       `yaml:"device"`    // by which the server's host takes part; empty: it does not
	MTU          int          `yaml:"mtu"`
	Nodes        []Member     `yaml:"nodes"`
	Operators    []Member     `yaml:"operators"`
	BetweenNodes bool         `yaml:"between_nodes"` // they may reach each other
}

// A Member is a node or an operator.
type Member struct {
	Name     string         `yaml:"name"`
	Keys     []string       `yaml:"keys"`
	Prefixes []netip.Prefix `yaml:"prefixes"`
}

// Parse reads a roster, of which file is the name.
func Parse(text []byte, file string) (*Roster, error) {
	r := &Roster{MTU: l3.DefaultMTU}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(r); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case r.PrivateKey == "":
		return nil, errors.New("private_key: the file is not named")
	case r.Port == 0:
		return nil, errors.New("port: it must be one that nodes can be told, such as 51820")
	case len(r.Addresses) == 0:
		return nil, errors.New("addresses: the server needs one, which nodes ask for signs of life")
	case r.MTU < l3.MinMTU || r.MTU > l3.MaxMTU:
		return nil, fmt.Errorf("mtu: %d is not in %d..%d", r.MTU, l3.MinMTU, l3.MaxMTU)
	}
	if err := l3.CheckOwn(r.Addresses); err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	if _, err := l3.ParseKey(r.PrivateKey); err == nil {
		return nil, fmt.Errorf("private_key: %w", l3.ErrInline)
	}
	if !filepath.IsAbs(r.PrivateKey) {
		r.PrivateKey = filepath.Join(filepath.Dir(file), r.PrivateKey)
	}
	return r, nil
}

// Unlike names what a server takes up only when it starts, and other has otherwise.
func (r *Roster) Unlike(other *Roster) (names []string) {
	for name, same := range map[string]bool{
		"port": r.Port == other.Port, "addresses": slices.Equal(r.Addresses, other.Addresses), "device": r.Device == other.Device, "mtu": r.MTU == other.MTU,
	} {
		if !same {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Peers are the members.
func (r *Roster) Peers() (nodes, operators []l3.Peer, err error) {
	if nodes, err = peers(r.Nodes, nodePatience); err != nil {
		return nil, nil, fmt.Errorf("nodes: %w", err)
	}
	if operators, err = peers(r.Operators, operatorPatience); err != nil {
		return nil, nil, fmt.Errorf("operators: %w", err)
	}
	return nodes, operators, r.keepOwn(slices.Concat(nodes, operators))
}

// keepOwn refuses members that have an address of the server: they could speak for it,
// and would get what is for it.
func (r *Roster) keepOwn(all []l3.Peer) error {
	for _, p := range all {
		for _, prefix := range p.Prefixes {
			for _, own := range r.Addresses {
				if prefix.Contains(own) {
					return fmt.Errorf("%s: prefix %s holds the server's own address %s", p.Name, prefix, own)
				}
			}
		}
	}
	return nil
}

func peers(members []Member, patience time.Duration) ([]l3.Peer, error) {
	var all []l3.Peer
	for _, m := range members {
		p := l3.Peer{Name: m.Name, Prefixes: m.Prefixes, Patience: patience}
		for _, text := range m.Keys {
			k, err := l3.ParseKey(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.Name, err)
			}
			p.Keys = append(p.Keys, k)
		}
		all = append(all, p)
	}
	return all, nil
}
