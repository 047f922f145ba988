package flows

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"millrace/control/ovsdb/flowmodel"
)

// A Line is a flow of a file, and where its parts stand.
type Line struct {
	Flow   flowmodel.Flow // without bridge and UUID
	Number int            // of the line, from 1
	at     map[string]spot
}

// A spot is where the value of a key stands in its line.
type spot struct {
	column  int   // of its first byte, from 1
	columns []int // of each byte and of the end, where some are escaped; nil: they follow each other
}

// A FileError is what is wrong with a line of a file.
type FileError struct {
	Name         string // of the file
	Line, Column int    // from 1; in bytes
	Reason       string
}

// Error is "name:line:column: reason".
func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.Name, e.Line, e.Column, e.Reason)
}

// Bounds of a file.
const (
	lineMax   = 1 << 20 // bytes of a line
	errorsMax = 100     // lines that are told to be wrong
)

// ReadFile reads flows, one a line:
//
//	table=0 priority=100 cookie=0x5 match="ip4 && tcp" actions="next;"
//
// Keys come in any order. What is left out is 0, but for match, which is "1", and
// actions, which must be there. Values of match and actions stand in double quotes,
// in which \", \\ and \n are escapes, or in single quotes, in which nothing is. Lines
// that are empty, or begin with #, are not looked at, nor is what follows a # behind the
// last value. The error joins a *FileError for each wrong line, up to a hundred.
func ReadFile(r io.Reader, name string) ([]Line, error) {
	var lines []Line
	var errs []error
	in := bufio.NewScanner(r)
	in.Buffer(nil, lineMax)
	n := 0
	for in.Scan() {
		n++
		l, some, err := readLine(in.Text(), n)
		if err != nil {
			err.Name = name
			if errs = append(errs, err); len(errs) == errorsMax {
				break
			}
		}
		if some && err == nil {
			lines = append(lines, l)
		}
	}
	if err := in.Err(); err != nil {
		errs = append(errs, &FileError{name, n + 1, 1, err.Error()})
	}
	return lines, errors.Join(errs...)
}

// readLine reads one line, and reports whether there is a flow in it.
func readLine(text string, number int) (l Line, some bool, err *FileError) {
	l = Line{Number: number, at: map[string]spot{}}
	l.Flow.Match = "1"
	p := lineReader{text: text, number: number}
	for p.space(); p.pos < len(text) && text[p.pos] != '#'; p.space() {
		start := p.pos
		key, value, at := p.pair()
		if p.err == nil && l.has(key) {
			p.fail(start, "%s is given twice", key)
		}
		if p.err == nil {
			p.set(&l, key, value, at)
		}
		if p.err != nil {
			return l, false, p.err
		}
		l.at[key] = at
		some = true
	}
	if some && !l.has("actions") {
		p.fail(len(text), "actions is missing: a flow without any is actions=\"drop;\"")
	}
	return l, some, p.err
}

func (l *Line) has(key string) bool {
	_, ok := l.at[key]
	return ok
}

// A lineReader reads pairs of a line.
type lineReader struct {
	text   string
	number int
	pos    int
	err    *FileError
}

// fail notes the first error, at an offset.
func (p *lineReader) fail(pos int, format string, args ...any) {
	if p.err == nil {
		p.err = &FileError{Line: p.number, Column: pos + 1, Reason: fmt.Sprintf(format, args...)}
	}
}

// space skips blanks, and commas between pairs.
func (p *lineReader) space() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r,", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

// pair reads key=value.
func (p *lineReader) pair() (key, value string, at spot) {
	start := p.pos
	end := strings.IndexByte(p.text[start:], '=')
	if end < 0 {
		p.fail(start, "expected key=value: keys are table, priority, cookie, match and actions")
		return "", "", at
	}
	key = p.text[start : start+end]
	p.pos += end + 1
	if p.pos < len(p.text) {
		switch q := p.text[p.pos]; q {
		case '"', '\'':
			value, at = p.quoted(q)
			return key, value, at
		}
	}
	at.column = p.pos + 1
	from := p.pos
	for p.pos < len(p.text) && strings.IndexByte(" \t\r,#", p.text[p.pos]) < 0 {
		p.pos++
	}
	return key, p.text[from:p.pos], at
}

// quoted reads a value in quotes.
func (p *lineReader) quoted(q byte) (string, spot) {
	open := p.pos
	p.pos++
	at := spot{column: p.pos + 1}
	end := strings.IndexByte(p.text[p.pos:], q)
	if end >= 0 && (q == '\'' || strings.IndexByte(p.text[p.pos:p.pos+end], '\\') < 0) {
		value := p.text[p.pos : p.pos+end]
		p.pos += end + 1
		return value, at
	}
	var b []byte
	for ; p.pos < len(p.text) && p.text[p.pos] != q; p.pos++ {
		at.columns = append(at.columns, p.pos+1)
		if p.text[p.pos] == '\\' {
			p.pos++
			c, ok := unescaped(p.text, p.pos)
			if !ok {
				p.fail(p.pos-1, `expected \", \\ or \n`)
				return "", at
			}
			b = append(b, c)
			continue
		}
		b = append(b, p.text[p.pos])
	}
	if p.pos == len(p.text) {
		p.fail(open, "%c without an end", q)
		return "", at
	}
	at.columns = append(at.columns, p.pos+1)
	p.pos++
	return string(b), at
}

// unescaped is what the byte at i stands for behind a backslash.
func unescaped(text string, i int) (byte, bool) {
	if i == len(text) {
		return 0, false
	}
	switch text[i] {
	case '"', '\\':
		return text[i], true
	case 'n':
		return '\n', true
	}
	return 0, false
}

// set gives a line the value of a key.
func (p *lineReader) set(l *Line, key, value string, at spot) {
	number := func(limit uint64) int {
		n, err := strconv.ParseUint(value, 0, 64)
		if err != nil || n > limit || strings.Contains(value, "_") {
			p.fail(at.column-1, "%s=%s is not a number from 0 to %d", key, clip(value), limit)
		}
		return int(n)
	}
	switch key {
	case "table":
		l.Flow.Table = number(255)
	case "priority":
		l.Flow.Priority = number(65535)
	case "cookie":
		l.Flow.Cookie = number(1<<64 - 1)
	case "match":
		l.Flow.Match = value
	case "actions":
		l.Flow.Actions = value
	default:
		p.fail(at.column-len(key)-2, "unknown key %q: keys are table, priority, cookie, match and actions", clip(key))
	}
}

// Locate is what is wrong with the line as an error of its file.
func (l *Line) Locate(name string, p *Problem) *FileError {
	e := &FileError{Name: name, Line: l.Number, Column: 1, Reason: p.Reason}
	at, ok := l.at[p.Where]
	switch {
	case !ok && p.Where != "":
		e.Reason = p.Error()
	case !ok:
	case p.Column > 0 && p.Column <= len(at.columns):
		e.Column = at.columns[p.Column-1]
	default:
		e.Column = at.column + max(p.Column, 1) - 1
	}
	return e
}

// AppendLine appends a flow as ReadFile reads it, without the end of the line.
func AppendLine(b []byte, f *flowmodel.Flow) []byte {
	b = strconv.AppendInt(append(b, "table="...), int64(f.Table), 10)
	b = strconv.AppendInt(append(b, " priority="...), int64(f.Priority), 10)
	if f.Cookie != 0 {
		b = strconv.AppendUint(append(b, " cookie=0x"...), uint64(f.Cookie), 16)
	}
	b = appendQuoted(append(b, " match="...), f.Match)
	return appendQuoted(append(b, " actions="...), f.Actions)
}

// appendQuoted appends a text in quotes: single ones where that spares escapes.
func appendQuoted(b []byte, s string) []byte {
	if strings.ContainsAny(s, `"\`) && !strings.ContainsAny(s, "'\n") {
		return append(append(append(b, '\''), s...), '\'')
	}
	b = append(b, '"')
	for i := range len(s) {
		switch s[i] {
		case '\n':
			b = append(b, '\\', 'n')
			continue
		case '"', '\\':
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}
