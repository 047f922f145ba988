package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"
)

// Major and Minor are the version of this API. A new minor version adds
// messages, fields and calls; a new major version changes what there is.
const (
	Major = 1
	Minor = 7
)

// VersionKey is the metadata key with which a client tells the version that it
// was made for.
const VersionKey = "millrace-api-version"

// Version is Major and Minor as they stand under VersionKey.
func Version() string { return fmt.Sprintf("%d.%d", Major, Minor) }

// CheckVersion refuses a caller that was made for another major version, or
// that names none that can be understood. A caller that says nothing is
// taken at its word: the package name has the major version, too.
func CheckVersion(ctx context.Context, release string) error {
	for _, v := range metadata.ValueFromIncomingContext(ctx, VersionKey) {
		major, _, _ := strings.Cut(v, ".")
		if n, err := strconv.ParseUint(major, 10, 32); err != nil || n != Major {
			return mismatch(v, release, Version())
		}
	}
	return nil
}

// mismatch is the error of a client and a dataplane that do not fit.
func mismatch(client, release, server string) error {
	return &Error{Kind: ErrVersion, Text: fmt.Sprintf("client speaks version %q of the API, the running dataplane (millrace %s) speaks %s: use the millrace of the same release, or restart the dataplane", client, release, server)}
}
