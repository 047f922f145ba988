package cni

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// withOlder calls a delegate with the configuration, and again as of 1.0.0 if it does
// not know 1.1.0: those in use are often older than the runtime.
func (c *call) withOlder(fn func(text []byte) error) error {
	err := fn(c.args.StdinData)
	var e *types.Error
	if c.CNIVersion != "1.1.0" || !errors.As(err, &e) || e.Code != types.ErrIncompatibleCNIVersion {
		return err
	}
	text, err := olderConf(c.args.StdinData)
	if err != nil {
		return err
	}
	return fn(text)
}

// olderConf is a configuration as of version 1.0.0.
func olderConf(text []byte) ([]byte, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("the configuration is null")
	}
	m["cniVersion"] = json.RawMessage(`"1.0.0"`)
	if prev, ok := m["prevResult"]; ok {
		var p map[string]json.RawMessage
		if err := json.Unmarshal(prev, &p); err == nil && p != nil {
			p["cniVersion"] = m["cniVersion"]
			if m["prevResult"], err = json.Marshal(p); err != nil {
				return nil, err
			}
		}
	}
	return json.Marshal(m)
}

// lease has the IPAM plugin give addresses. It gives nobody two, so what an ADD that was
// killed has left is given back first.
func (c *call) lease(ctx context.Context) (*types100.Result, error) {
	result := &types100.Result{}
	if c.ipam == "" {
		return result, nil
	}
	give := func(text []byte) error {
		r, err := invoke.DelegateAdd(ctx, c.ipam, text, nil)
		if err == nil {
			result, err = types100.NewResultFromResult(r)
		}
		return err
	}
	err := c.withOlder(give)
	if err != nil && c.release(ctx) == nil {
		err = c.withOlder(give)
	}
	if err != nil {
		return nil, wrapped("IPAM plugin "+c.ipam, err)
	}
	if len(result.IPs) == 0 {
		return nil, types.NewError(types.ErrTryAgainLater, "IPAM plugin "+c.ipam+" gives no address", "")
	}
	return result, nil
}

// releaseTimeout is for an IPAM plugin to take addresses back.
const releaseTimeout = 20 * time.Second

// release has the IPAM plugin take addresses back.
func (c *call) release(ctx context.Context) error {
	if c.ipam == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout) // the switch may have used up the call's
	defer cancel()
	err := c.withOlder(func(text []byte) error { return invoke.DelegateDel(ctx, c.ipam, text, nil) })
	if err != nil {
		return wrapped("IPAM plugin "+c.ipam, err)
	}
	return nil
}

// checkLease asks the IPAM plugin whether it still has the addresses.
func (c *call) checkLease(ctx context.Context) error {
	return c.tolerant(func(text []byte) error { return invoke.DelegateCheck(ctx, c.ipam, text, nil) })
}

// tolerant calls a delegate for something that it need not have.
func (c *call) tolerant(fn func(text []byte) error) error {
	if c.ipam == "" {
		return nil
	}
	err := c.withOlder(fn)
	if err == nil || lacks(err) {
		return nil
	}
	return wrapped("IPAM plugin "+c.ipam, err)
}

// lacks reports whether a delegate does not have an operation. whereabouts says so of
// CHECK in words, and older plugins do not know GC and STATUS.
func lacks(err error) bool {
	var e *types.Error
	if !errors.As(err, &e) {
		return false
	}
	text := strings.ToLower(e.Msg + e.Details)
	return strings.Contains(text, "not implemented") || strings.Contains(text, "unknown cni_command") || strings.Contains(text, "does not allow") ||
		strings.Contains(text, "missing containerid") || // of GC and STATUS, which are not about one
		e.Code == types.ErrIncompatibleCNIVersion
}

// wrapped says who an error is from, and keeps its code.
func wrapped(who string, err error) error {
	var e *types.Error
	if errors.As(err, &e) {
		return types.NewError(e.Code, who+": "+e.Msg, e.Details)
	}
	return types.NewError(types.ErrInternal, who+": "+err.Error(), "")
}
