// Package prefetch asks for many cache lines at once, before they are read, so
// that their loads wait for memory together.
package prefetch

// Max is how many lines one call asks for at most.
const Max = 64
