package logical

import (
	"fmt"
	"slices"
	"strings"
)

// Expand replaces each template variable ^name of text, which may be a match
// or actions, by its value in vars. used lists the variables of text, sorted,
// each once: when one of them changes, expand again. An undefined one makes an
// error that wraps ErrUndefinedVariable. A value is text of the language: it
// may be several tokens, and is not expanded itself. Strings and comments stay
// as they are.
func Expand(text string, vars map[string]string) (out string, used []string, err error) {
	if strings.IndexByte(text, '^') < 0 {
		return text, nil, nil
	}
	l := lexer{text: text}
	var b strings.Builder
	copied := 0
	for l.next(); l.tok.kind != tokEnd && l.err == nil; l.next() {
		if l.tok.kind != tokTemplate {
			continue
		}
		used = append(used, l.tok.text)
		value, ok := vars[l.tok.text]
		if !ok && err == nil {
			err = fmt.Errorf("column %d: ^%s: %w", l.tok.start+1, l.tok.text, ErrUndefinedVariable)
		}
		b.WriteString(text[copied:l.tok.start])
		b.WriteString(value)
		copied = l.tok.end
	}
	slices.Sort(used)
	used = slices.Compact(used)
	switch {
	case l.err != nil:
		return "", used, l.err
	case err != nil:
		return "", used, err
	}
	b.WriteString(text[copied:])
	return b.String(), used, nil
}
