// Package millrace is the root of the module. It holds no code, only the test
// of the rules that every package keeps (rules_test.go).
//
// The program is cmd/millrace; docs/architecture.md is the way in.
package millrace
