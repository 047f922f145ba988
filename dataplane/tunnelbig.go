package dataplane

// tooBigs bounds how many senders are told that a frame was too long.
type tooBigs struct {
	second uint32
	n      int
}

// tooBig tells the sender of a frame that does not fit into a tunnel.
func (w *worker) tooBig(*transit, *workerPort) {}
