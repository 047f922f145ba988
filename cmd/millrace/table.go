package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A table is rows of words under headings. A heading that begins with > is of
// a column of numbers.
type table struct {
	heads []string
	rows  [][]string
	width []int // of columns, as far as they were printed; nil: nothing was
}

func newTable(heads ...string) *table { return &table{heads: heads} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print prints the table, or what part has left of it, or none in place of one without
// rows.
func (t *table) print(w io.Writer, none string) {
	if len(t.rows) > 0 {
		t.part(w)
	} else if t.width == nil {
		fmt.Fprintln(w, none)
	}
}

// part prints the rows that there are, and forgets them. Columns grow with later
// parts where they must.
func (t *table) part(w io.Writer) {
	heads := make([]string, len(t.heads))
	begins := t.width == nil
	if begins {
		t.width = make([]int, len(t.heads))
	}
	for i, h := range t.heads {
		heads[i] = strings.TrimPrefix(h, ">")
		t.width[i] = max(t.width[i], len(heads[i]))
		for _, r := range t.rows {
			t.width[i] = max(t.width[i], utf8.RuneCountInString(r[i]))
		}
	}
	if begins {
		fmt.Fprintln(w, t.line(heads, t.width))
	}
	for _, r := range t.rows {
		fmt.Fprintln(w, t.line(r, t.width))
	}
	t.rows = t.rows[:0]
}

func (t *table) line(cells []string, width []int) string {
	var b strings.Builder
	for i, c := range cells {
		pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
		if strings.HasPrefix(t.heads[i], ">") {
			c, pad = pad+c, ""
		}
		b.WriteString(c + pad + "  ")
	}
	return strings.TrimRight(b.String(), " ")
}

// count groups the digits of n: 1,234,567.
func count[N ~uint32 | ~uint64](n N) string {
	s := strconv.FormatUint(uint64(n), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short gives x three or four digits and a prefix: 14.88M.
func short(x float64) string {
	for _, p := range []struct {
		unit float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if x >= p.unit {
			return strconv.FormatFloat(x/p.unit, 'f', 2, 64) + p.name
		}
	}
	return strconv.FormatFloat(x, 'f', 0, 64)
}

// percent shows a share of one.
func percent(x float64) string { return strconv.FormatFloat(100*x, 'f', 1, 64) + "%" }

// plural counts things: 1 port, 2 ports.
func plural[N ~int | ~uint32](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// span shows how long something is or was: two units at most, or three digits.
func span(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return d.String()
	case d < time.Millisecond:
		return strconv.FormatFloat(d.Seconds()*1e6, 'g', 3, 64) + "us"
	case d < time.Second:
		return strconv.FormatFloat(d.Seconds()*1e3, 'g', 3, 64) + "ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// seconds turns the API's seconds into time.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
