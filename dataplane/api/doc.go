// Package api is the boundary between a dataplane and whoever controls it: the
// protobuf services of millrace.proto, flows.proto and connections.proto, their errors,
// and a client that finds the dataplane of a run directory.
//
// What the messages mean, with units, stands in the .proto files. The package
// imports nothing of ours, so that control and foreign programs can use it
// without the dataplane.
package api

//go:generate protoc -I ../.. --go_out=../.. --go_opt=paths=source_relative --go-grpc_out=../.. --go-grpc_opt=paths=source_relative ../../dataplane/api/millrace.proto
