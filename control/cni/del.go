package cni

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"

	"millrace/control/cni/attach"
)

// del takes an interface away: all that there is of it, however little, and also
// when the switch is not running.
func del(args *skel.CmdArgs) error {
	return withTime(func(ctx context.Context) error {
		c, err := parsePod(args, false)
		if err != nil {
			return err
		}
		unlock, err := c.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		at, err := c.attachment()
		if err != nil {
			at = &attach.Attachment{Key: c.key, MAC: c.key.MAC().String()}
		}
		pod, err := enter(args.Netns)
		if err == nil {
			defer pod.close()
			at.NetnsInode = pod.inode
		}
		return errors.Join(c.detach(ctx, at), c.unlink(pod, at.MAC), c.release(ctx), c.removeInfo())
	})
}

// unlink removes devices. pod may be nil: it is gone, and its devices with it.
func (c *call) unlink(pod *sandbox, mac string) error {
	err := attach.RemoveVeth(c.key.Port())
	if pod != nil {
		err = errors.Join(err, pod.remove(c.key.IfName, mac))
	}
	return err
}

// detach has the switch remove the port, or leaves it a note.
func (c *call) detach(ctx context.Context, at *attach.Attachment) error {
	_, err := attach.Call(ctx, c.RunDir, &attach.Request{Method: attach.Detach, Key: c.key, Attachment: at})
	if err == nil {
		return nil
	}
	return attach.Note(c.RunDir, at)
}

// gc removes all of the network but what the runtime still has.
func gc(args *skel.CmdArgs) error {
	return withTime(func(ctx context.Context) error {
		c, err := parse(args, true)
		if err != nil {
			return err
		}
		valid, err := c.valid()
		if err != nil {
			return err
		}
		reply, err := attach.Retry(ctx, c.RunDir, &attach.Request{Method: attach.GC, Key: attach.Key{Network: c.Name}, Valid: valid}, patience)
		errs := []error{err}
		if reply != nil {
			for _, port := range reply.Removed {
				errs = append(errs, attach.RemoveVeth(port))
			}
		}
		errs = append(errs, c.tolerant(func(text []byte) error { return invoke.DelegateGC(ctx, c.ipam, text, nil) }))
		return errors.Join(errs...)
	})
}
