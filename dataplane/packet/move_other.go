//go:build !amd64

package packet

func move(c *Copy, n int) { moveGeneric(c, n) }
