// Package millrace is the root of the module. It holds no code, only the tests
// of what is asked of all of it: who imports whom and what else every package
// keeps (rules_test.go), loops without bounds checks (bounds_test.go), and links
// of the documents (links_test.go).
//
// The program is cmd/millrace; docs/architecture.md is the way in.
package millrace
