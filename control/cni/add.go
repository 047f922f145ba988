package cni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"millrace/control/cni/attach"
)

// add gives a pod an interface. What fails leaves nothing behind; what an ADD that was
// killed has left is used or replaced.
func add(args *skel.CmdArgs) error {
	return withTime(func(ctx context.Context) error {
		c, err := parsePod(args, true)
		if err != nil {
			return err
		}
		at, err := c.attachment()
		if err != nil {
			return err
		}
		if _, err := c.prev(); err != nil {
			return err
		}
		pod, err := enter(args.Netns)
		if err != nil {
			return err
		}
		defer pod.close()
		unlock, err := c.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		at.NetnsInode = pod.inode
		if err := c.free(pod, at); err != nil {
			return err
		}
		result, err := c.build(ctx, pod, at)
		if err != nil {
			return errors.Join(err, c.undo(ctx, pod, at))
		}
		return types.PrintResult(result, c.CNIVersion)
	})
}

// free is an error if the pod has an interface of that name, other than what an ADD
// of the same one has left.
func (c *call) free(pod *sandbox, at *attach.Attachment) error {
	l, err := pod.link(at.IfName)
	if err != nil || l == nil {
		return err
	}
	if ours(l, at.MAC) {
		if at.Kind == attach.VhostUser {
			return pod.remove(at.IfName, at.MAC)
		}
		return nil
	}
	return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_IFNAME: the pod has an interface %s already", at.IfName), "")
}

// build makes all of the interface.
func (c *call) build(ctx context.Context, pod *sandbox, at *attach.Attachment) (*types100.Result, error) {
	leased, err := c.lease(ctx)
	if err != nil {
		return nil, err
	}
	for _, ip := range leased.IPs {
		if ip.Address.IP.To4() == nil && at.MTU < mtuIPv6 {
			return nil, invalid("mtu", "%d is less than %d, which IPv6 needs: the pod has address %s", at.MTU, mtuIPv6, ip.Address.String())
		}
		at.IPs = append(at.IPs, ip.Address.String())
		if ip.Gateway != nil {
			at.Gateways = append(at.Gateways, ip.Gateway.String())
		}
	}
	if at.Kind == attach.Veth {
		if err := pod.makeVeth(at); err != nil {
			return nil, err
		}
	}
	reply, err := attach.Retry(ctx, c.RunDir, &attach.Request{Method: attach.Attach, Attachment: at}, patience)
	if err != nil {
		return nil, err
	}
	if reply.Attached == nil {
		return nil, errors.New("the switch says nothing of the port")
	}
	if at.Kind != attach.VhostUser {
		if err := pod.configure(at.IfName, leased); err != nil {
			return nil, err
		}
	}
	result, err := c.resultOf(at, reply.Attached, leased)
	if err != nil {
		return nil, err
	}
	return result, c.writeInfo(reply.Attached)
}

// undoTimeout is how long a failed ADD may take to clean up.
const undoTimeout = 10 * time.Second

// undo takes everything back. What cannot be is left to DEL, which the runtime calls.
func (c *call) undo(ctx context.Context, pod *sandbox, at *attach.Attachment) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(c.detach(ctx, at), c.unlink(pod, at.MAC), c.release(ctx))
}
