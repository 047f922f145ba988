package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"millrace/control/egress/policy"
)

// An Explanation says what would become of a request.
type Explanation struct {
	Target    string           `json:"target"`
	Resolver  string           `json:"resolver,omitempty"` // of a name
	Addresses []AddressVerdict `json:"addresses,omitempty"`
	Denied    string           `json:"denied,omitempty"` // why, before any address was judged
	Error     string           `json:"error,omitempty"`  // of the lookup, or that there is no port to reach it by
}

// An AddressVerdict is what the policy says of one address.
type AddressVerdict struct {
	Address string `json:"address"`
	Class   string `json:"class"`         // deny, or by what it is reached
	Way     string `json:"way,omitempty"` // the port's name, or host
	Why     string `json:"why,omitempty"`
}

// Explain says what the policy makes of a target. A name is looked up; nothing
// is dialled.
func (a *Agent) Explain(ctx context.Context, protocol, address string) Explanation {
	p := a.cfg.Policy()
	e := Explanation{Target: protocol + " " + address}
	t, err := p.Read(protocol, address)
	if err != nil {
		e.Denied = err.Error()
		return e
	}
	if t.Name != "" {
		if by, err := p.Lookup(t); err == nil {
			e.Resolver = string(by)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DialTimeout)
	defer cancel()
	addrs, err := a.addresses(ctx, p, t)
	if _, denied := errors.AsType[*policy.DeniedError](err); denied {
		e.Denied = err.Error()
	} else if err != nil {
		e.Error = err.Error()
	}
	for _, addr := range addrs {
		v := AddressVerdict{Address: netip.AddrPortFrom(addr, t.Port).String()}
		class, err := p.Judge(addr, t.Port)
		v.Class = string(class)
		if err != nil {
			v.Why = err.Error()
		} else if v.Way = a.way(class); class.ByPort() && a.cfg.Port == nil {
			e.Error = fmt.Sprintf("%s: %v", v.Address, noPort(class))
		}
		e.Addresses = append(e.Addresses, v)
	}
	return e
}
