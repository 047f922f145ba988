package konntest

import konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

// DialAny sends a dial that no library of clients would, and returns where the
// agent's answer comes: the error, empty if it connected.
func (s *Server) DialAny(protocol, address string) (<-chan string, error) {
	c := anyClient{make(chan string, 1)}
	_, _, err := s.dial(c, protocol, address)
	return c.answer, err
}

type anyClient struct{ answer chan string }

func (c anyClient) connected(b *backend, r *konn.DialResponse) {
	c.answer <- r.Error
	if r.Error == "" {
		_ = b.send(closeRequest(r.ConnectID))
	}
}

func (anyClient) data(*konn.Data) {}

func (anyClient) closed(*konn.CloseResponse) {}
