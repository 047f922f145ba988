package main

import (
	"fmt"
	"strings"
)

const (
	plotWidth  = 760
	panelTop   = 60
	rowHeight  = 58
	labelWidth = 70
	panelWidth = 270
)

// plot draws two panels of bars, throughput and cycles per packet, of the cases
// whose point they are.
func plot(done []outcome) string {
	var b strings.Builder
	done, _ = split(done)
	height := panelTop + rowHeight*len(done) + 20
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<rect x="%d" y="10" width="12" height="12" fill="#1f6f8b"/><text x="%d" y="21">millrace</text>`+"\n", labelWidth, labelWidth+18)
	fmt.Fprintf(&b, `<rect x="%d" y="10" width="12" height="12" fill="#c9a66b"/><text x="%d" y="21">OVS-DPDK</text>`+"\n", labelWidth+100, labelWidth+118)
	panel(&b, done, labelWidth, "million packets a second (more is better)", mpps)
	panel(&b, done, labelWidth+panelWidth+90, "TSC cycles per packet (less is better)", cycles)
	b.WriteString("</svg>\n")
	return b.String()
}

// panel draws one figure of all cases from x on.
func panel(b *strings.Builder, done []outcome, x int, title string, of func(sample) float64) {
	most := 0.0
	for _, o := range done {
		most = max(most, median(o.Ours, of), median(o.Peer, of))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", x, panelTop-14, title)
	for i, o := range done {
		y := panelTop + i*rowHeight
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", x-8, y+25, o.Case.Name)
		bar(b, x, y, median(o.Ours, of), most, "#1f6f8b")
		bar(b, x, y+20, median(o.Peer, of), most, "#c9a66b")
	}
}

func bar(b *strings.Builder, x, y int, v, most float64, color string) {
	w := v / max(most, 1e-9) * (panelWidth - 40)
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="17" fill="%s"/><text x="%.1f" y="%d">%s</text>`+"\n", x, y, w, color, float64(x)+w+5, y+13, short(v))
}

// short is a number with three digits or so.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
