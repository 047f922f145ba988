package peers

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
)

// errEnded is what waiting for output returns once there will be no more.
var errEnded = errors.New("the program has ended")

// A transcript is all that a program has printed. One side writes, any number
// of readers wait for text to appear.
type transcript struct {
	mu    sync.Mutex // guards what follows
	text  []byte
	ended bool
	grown chan struct{} // closed, and replaced, when text or ended changes
}

// newTranscript returns an empty transcript.
func newTranscript() *transcript { return &transcript{grown: make(chan struct{})} }

// Write appends p. It never fails.
func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.wake()
	return len(p), nil
}

// end says that no more will be written.
func (t *transcript) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.wake()
}

// wake lets the waiters look again. The caller holds mu.
func (t *transcript) wake() {
	close(t.grown)
	t.grown = make(chan struct{})
}

// size returns how much has been written; a position for await.
func (t *transcript) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.text)
}

// await returns the first match of pattern at or after position from, with its
// groups, and the text before it. It fails when ctx or the program ends first.
func (t *transcript) await(ctx context.Context, from int, pattern *regexp.Regexp) (before string, match []string, err error) {
	for {
		t.mu.Lock()
		text, ended, grown := string(t.text[from:]), t.ended, t.grown
		t.mu.Unlock()
		if at := pattern.FindStringIndex(text); at != nil {
			return text[:at[0]], pattern.FindStringSubmatch(text), nil
		}
		if ended {
			return text, nil, errEnded
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return text, nil, ctx.Err()
		}
	}
}

// all returns everything, with plain line ends.
func (t *transcript) all() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ReplaceAll(string(t.text), "\r\n", "\n")
}

// tail returns the last n lines.
func (t *transcript) tail(n int) string {
	lines := strings.Split(strings.TrimSpace(t.all()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
