package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"
)

const (
	// SocketName is the agent's socket in the run directory.
	SocketName = "cni.sock"

	// Version is that of the protocol. A side that gets another one refuses.
	Version = 1

	// sizeMax bounds a request or reply in bytes: GC and List have one for each
	// attachment.
	sizeMax = 8 << 20
)

// ErrAway says that there is no agent: the switch is not running, or is being
// restarted.
var ErrAway = errors.New("the switch is not running")

// Call calls the agent of a run directory. The error is an *Error if the agent
// refuses, wraps ErrAway if there is none, and is another one if nobody knows what
// came of the call.
func Call(ctx context.Context, runDir string, r *Request) (*Reply, error) {
	path := filepath.Join(runDir, SocketName)
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w (start it with `millrace run`, or name its directory with runDir)", ErrAway, err)
	}
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	}
	r.Version = Version
	if err := Send(c.(*net.UnixConn), r); err != nil {
		return nil, fmt.Errorf("%s: %w", r.Method, err)
	}
	var reply Reply
	if err := Receive(c, &reply); err != nil {
		return nil, fmt.Errorf("%s: no answer of the agent: %w", r.Method, err)
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

// Retry is Call, again and again while there is no agent, for patience.
func Retry(ctx context.Context, runDir string, r *Request, patience time.Duration) (*Reply, error) {
	for end := time.Now().Add(patience); ; {
		reply, err := Call(ctx, runDir, r)
		if err == nil || !errors.Is(err, ErrAway) || time.Now().After(end) {
			return reply, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Send sends v and says that there is no more.
func Send(c *net.UnixConn, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := c.Write(text); err != nil {
		return err
	}
	return c.CloseWrite()
}

// Receive reads v, to the end. What it does not know is an error.
func Receive(r io.Reader, v any) error {
	text, err := io.ReadAll(io.LimitReader(r, sizeMax+1))
	switch {
	case err != nil:
		return err
	case len(text) > sizeMax:
		return fmt.Errorf("more than %d bytes", sizeMax)
	case len(text) == 0:
		return io.ErrUnexpectedEOF
	}
	return Decode(text, v)
}

// Decode reads one value of JSON.
func Decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}
