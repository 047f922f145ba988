package service

import (
	"context"
	"errors"
	"fmt"
	"net"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// ownerOnly are the credentials of a server on a Unix socket that root and the
// user uid may use, as the kernel tells (SO_PEERCRED, unix(7)). The mode of the
// socket says the same, but a mode can be changed by accident.
type ownerOnly struct {
	uid int
	log *zap.Logger
}

// A Peer is the process at the other end of a connection.
type Peer struct {
	credentials.CommonAuthInfo
	PID, UID int
}

// AuthType implements credentials.AuthInfo.
func (Peer) AuthType() string { return "so_peercred" }

// ServerHandshake implements credentials.TransportCredentials: it refuses
// strangers before it reads a byte of theirs.
func (o ownerOnly) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, err := peerOf(c)
	if err == nil && p.UID != 0 && p.UID != o.uid {
		err = fmt.Errorf("process %d of user %d is neither root nor user %d", p.PID, p.UID, o.uid)
	}
	if err != nil {
		o.log.Warn("refused a client", zap.Error(err))
		_ = c.Close()
		return nil, nil, err
	}
	p.SecurityLevel = credentials.PrivacyAndIntegrity // nobody is in between
	return c, p, nil
}

// peerOf asks the kernel who is at the other end of c.
func peerOf(c net.Conn) (Peer, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, errors.New("not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("read peer's credentials: %w", err)
	}
	var cred *unix.Ucred
	var got error
	err = raw.Control(func(fd uintptr) {
		cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, got); err != nil {
		return Peer{}, fmt.Errorf("read peer's credentials: %w", err)
	}
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid)}, nil
}

// ClientHandshake implements credentials.TransportCredentials. There is no
// client of this kind.
func (ownerOnly) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("credentials of a server only")
}

// Info implements credentials.TransportCredentials.
func (ownerOnly) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "so_peercred"}
}

// Clone implements credentials.TransportCredentials.
func (o ownerOnly) Clone() credentials.TransportCredentials { return o }

// OverrideServerName implements credentials.TransportCredentials.
func (ownerOnly) OverrideServerName(string) error { return nil }
