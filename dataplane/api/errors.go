package api

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// Kinds of errors, for errors.Is. They come over the wire as they went in.
var (
	ErrNoPort   = errors.New("no such port")
	ErrNoBridge = errors.New("no such bridge")
	ErrNoEntry  = errors.New("no such entry")
	ErrExists   = errors.New("exists with other settings")
	ErrInvalid  = errors.New("invalid argument")
	ErrBusy     = errors.New("still being closed")
	ErrClosing  = errors.New("the dataplane is shutting down")
	ErrSlow     = errors.New("watcher too slow")
	ErrVersion  = errors.New("version of the API does not fit")
	ErrRefused  = errors.New("transaction refused")

	// ErrNotRunning and ErrDenied come from the client: nobody, or somebody
	// that does not let us in, listens in the run directory.
	ErrNotRunning = errors.New("no switch running")
	ErrDenied     = errors.New("permission denied")
)

// domain marks the errors of this API in google.rpc.ErrorInfo.
const domain = "millrace"

// A kind is how an error looks on the wire.
type kind struct {
	err    error
	reason string // google.rpc.ErrorInfo.reason
	code   codes.Code
}

func kinds() []kind {
	return []kind{
		{ErrNoPort, "NO_PORT", codes.NotFound},
		{ErrNoBridge, "NO_BRIDGE", codes.NotFound},
		{ErrNoEntry, "NO_ENTRY", codes.NotFound},
		{ErrExists, "EXISTS", codes.AlreadyExists},
		{ErrInvalid, "INVALID", codes.InvalidArgument},
		{ErrBusy, "BUSY", codes.Unavailable},
		{ErrClosing, "CLOSING", codes.Unavailable},
		{ErrSlow, "SLOW", codes.Aborted},
		{ErrVersion, "API_VERSION", codes.FailedPrecondition},
		{ErrRefused, "REFUSED", codes.Aborted},
	}
}

// An Error is what a call of this API ends with. Both sides use it: the server
// makes it, and the client gets it back.
type Error struct {
	Kind  error      // one of the errors above, or nil
	Code  codes.Code // for a Kind of nil
	Field string     // for ErrInvalid: the field that is wrong, as in millrace.proto, such as "spec.tag"
	Text  string     // all of it, in words

	Refused *TransactResponse // for ErrRefused: what was refused of a transaction
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Unwrap lends Kind to errors.Is.
func (e *Error) Unwrap() error { return e.Kind }

// Invalid is the error of a field that is wrong.
func Invalid(field, text string) error { return &Error{Kind: ErrInvalid, Field: field, Text: text} }

// GRPCStatus is the error as it goes over the wire.
func (e *Error) GRPCStatus() *status.Status {
	k := kind{reason: "OTHER", code: e.Code}
	for _, c := range kinds() {
		if errors.Is(e.Kind, c.err) {
			k = c
		}
	}
	if k.code == codes.OK {
		k.code = codes.Unknown
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: domain, Reason: k.reason}}
	if e.Field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.Field, Description: e.Text}}})
	}
	if e.Refused != nil {
		details = append(details, protoadapt.MessageV1Of(e.Refused))
	}
	st := status.New(k.code, e.Text)
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st
}

// FromStatus turns what gRPC returns back into an *Error. It leaves nil, and
// what did not come from gRPC.
func FromStatus(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	e := &Error{Code: st.Code(), Text: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Kind = kindOf(d)
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Field = v.GetField()
			}
		case *TransactResponse:
			e.Refused = d
		}
	}
	return e
}

func kindOf(info *errdetails.ErrorInfo) error {
	for _, k := range kinds() {
		if info.GetDomain() == domain && info.GetReason() == k.reason {
			return k.err
		}
	}
	return nil
}
