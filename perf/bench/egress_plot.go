package main

import (
	"fmt"
	"strings"
)

const ratioLabels = 170 // width of the names of cases

// ratioPlot draws a bar for each case whose point is a rate: how many times its rival's
// ours is. A line marks as much.
func ratioPlot(done []outcome) string {
	done, _ = split(done)
	most := 1.0
	for _, o := range done {
		most = max(most, o.ratio())
	}
	const row = 26
	bottom := panelTop + row*len(done)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", ratioLabels+panelWidth+140, bottom+20)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">rate of millrace, times its rival&#39;s (line: as much)</text>`+"\n", 10, panelTop-24)
	for i, o := range done {
		y := panelTop + i*row
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", ratioLabels-8, y+13, o.Case.Name)
		bar(&b, ratioLabels, y, o.ratio(), most, "#1f6f8b")
	}
	x := ratioLabels + 1/most*(panelWidth-40)
	fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#c9a66b" stroke-width="2"/>`+"\n", x, panelTop-8, x, bottom)
	b.WriteString("</svg>\n")
	return b.String()
}
