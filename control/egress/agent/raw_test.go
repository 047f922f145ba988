package agent

import (
	"context"
	"errors"
	"testing"

	"millrace/control/egress/konntest"
)

// dialRaw has a server send a dial of any protocol, and returns what the agent
// answers.
func dialRaw(ctx context.Context, t testing.TB, s *konntest.Server, protocol, address string) error {
	t.Helper()
	answer, err := s.DialAny(protocol, address)
	if err != nil {
		return err
	}
	select {
	case text := <-answer:
		if text == "" {
			return nil
		}
		return errors.New(text)
	case <-ctx.Done():
		return ctx.Err()
	}
}
