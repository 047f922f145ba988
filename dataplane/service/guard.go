package service

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// guardUnary stands around every call: version first, errors of the API last.
func (s *Server) guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (reply any, err error) {
	defer s.survive(info.FullMethod, &err)
	if err := api.CheckVersion(ctx, s.Version); err != nil {
		return nil, err
	}
	leave, err := s.flows.enter(info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer leave()
	reply, err = handle(ctx, req)
	return reply, toAPI(err)
}

// guardStream is guardUnary for calls that stream.
func (s *Server) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer s.survive(info.FullMethod, &err)
	if err := api.CheckVersion(stream.Context(), s.Version); err != nil {
		return err
	}
	leave, err := s.flows.enter(info.FullMethod)
	if err != nil {
		return err
	}
	defer leave()
	return toAPI(handle(srv, stream))
}

// survive turns a panic of a call into its error: forwarding goes on.
func (s *Server) survive(method string, err *error) {
	if p := recover(); p != nil {
		s.Log.Error("panic in a call: this is a bug, please report it", zap.String("call", method), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		*err = &api.Error{Code: codes.Internal, Text: fmt.Sprintf("%s: panic in the dataplane (see its log): %v", method, p)}
	}
}

// unknown answers calls that this version of the service does not have.
func (s *Server) unknown(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return &api.Error{Code: codes.Unimplemented, Text: fmt.Sprintf("no call %s: this dataplane is millrace %s with version %s of the API", method, s.Version, api.Version())}
}

// toAPI gives an error of the dataplane its kind in the API.
func toAPI(err error) error {
	if err == nil {
		return nil
	}
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e
	}
	for _, k := range []struct{ ours, theirs error }{
		{dataplane.ErrNoPort, api.ErrNoPort},
		{dataplane.ErrNoBridge, api.ErrNoBridge},
		{dataplane.ErrNoEntry, api.ErrNoEntry},
		{dataplane.ErrExists, api.ErrExists},
		{dataplane.ErrBadSpec, api.ErrInvalid},
		{dataplane.ErrBadType, api.ErrInvalid},
		{dataplane.ErrBadCPUs, api.ErrInvalid},
		{dataplane.ErrBusy, api.ErrBusy},
		{dataplane.ErrIsClosing, api.ErrClosing},
	} {
		if errors.Is(err, k.ours) {
			return &api.Error{Kind: k.theirs, Text: err.Error()}
		}
	}
	return &api.Error{Code: codeOf(err), Text: err.Error()}
}

func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	}
	return codes.Internal
}
