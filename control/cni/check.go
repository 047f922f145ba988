package cni

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

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

// previous is the result that CHECK compares with.
func (c *call) previous() (*types100.Result, error) {
	r, err := c.prev()
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, invalid("prevResult", "CHECK needs it")
	case interfaceOf(r, c.args.IfName) < 0:
		return nil, invalid("prevResult", "it has no interface %s", c.args.IfName)
	}
	return r, nil
}

// status is an error if no ADD could succeed now.
func status(args *skel.CmdArgs) error {
	return withTime(func(ctx context.Context) error {
		c, err := parse(args, true)
		if err != nil {
			return err
		}
		if _, err := c.attachment(); err != nil {
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
