package cni

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"millrace/control/cni/attach"
)

// check is an error if an interface is not as ADD has made it.
func check(args *skel.CmdArgs) error {
	return withTime(func(ctx context.Context) error {
		c, err := parsePod(args, true)
		if err != nil {
			return err
		}
		prev, err := c.previous()
		if err != nil {
			return err
		}
		at, err := c.attachment()
		if err != nil {
			return err
		}
		if err := c.checkLease(ctx); err != nil {
			return err
		}
		if _, err := attach.Retry(ctx, c.RunDir, &attach.Request{Method: attach.Check, Attachment: at}, patience); err != nil {
			return err
		}
		if at.Kind == attach.VhostUser {
			return nil
		}
		pod, err := enter(args.Netns)
		if err != nil {
			return err
		}
		defer pod.close()
		return pod.verify(at, prev)
	})
}

// previous is the result of ADD.
func (c *call) previous() (*types100.Result, error) {
	if len(c.PrevResult) == 0 {
		return nil, invalid("prevResult", "CHECK needs it")
	}
	var raw map[string]any
	if err := json.Unmarshal(c.PrevResult, &raw); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	conf := &types.PluginConf{CNIVersion: c.CNIVersion, RawPrevResult: raw}
	if err := version.ParsePrevResult(conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	r, err := types100.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	for _, i := range r.Interfaces {
		if i.Name == c.args.IfName {
			return r, nil
		}
	}
	return nil, invalid("prevResult", "it has no interface %s", c.args.IfName)
}

// status is an error if no ADD could succeed now.
func status(args *skel.CmdArgs) error {
	return withTime(func(ctx context.Context) error {
		c, err := parse(args, true)
		if err != nil {
			return err
		}
		_, err = attach.Call(ctx, c.RunDir, &attach.Request{Method: attach.Status})
		if errors.Is(err, attach.ErrAway) {
			return types.NewError(attach.CodeAway, err.Error(), "")
		}
		if err != nil {
			return err
		}
		return c.tolerant(func(text []byte) error { return invoke.DelegateStatus(ctx, c.ipam, text, nil) })
	})
}
