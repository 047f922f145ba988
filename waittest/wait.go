// Package waittest is what tests wait with for what others do.
package waittest

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Most is how long a test waits for what takes milliseconds: machines may be busy.
const Most = time.Minute

// Until waits until ok reports true, and fails the test if that takes too long. It asks
// often at first, then every 5 ms.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	pause := 100 * time.Microsecond
	for end := time.Now().Add(Most); !ok(); pause = min(2*pause, 5*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", Most, what)
		}
		time.Sleep(pause)
	}
}

// A Buffer collects output while others look at it.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to it.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that it has.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
