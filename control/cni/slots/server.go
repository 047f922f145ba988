package slots

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	kubelet "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// registerTimeout is how long kubelet may take to know us.
const registerTimeout = 10 * time.Second

// A server is the plugin for one life of kubelet.
type server struct {
	kubelet.UnimplementedDevicePluginServer
	p    *Plugin
	path string
	grpc *grpc.Server

	mu      sync.Mutex
	healthy bool
	changed chan struct{} // closed when healthy is another one; under mu
}

// listen starts a server at the plugin's socket.
func (p *Plugin) listen() (*server, error) {
	s := &server{p: p, path: filepath.Join(p.KubeletDir, "millrace-"+p.Bridge+".sock"), grpc: grpc.NewServer(), healthy: true, changed: make(chan struct{})}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of the last plugin: %w", err)
	}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return nil, fmt.Errorf("listen for kubelet: %w", err)
	}
	kubelet.RegisterDevicePluginServer(s.grpc, s)
	go func() { _ = s.grpc.Serve(l) }() // ends with close
	return s, nil
}

// close ends the server, and removes its socket.
func (s *server) close() { s.grpc.Stop() }

// register makes the plugin known to kubelet.
func (s *server) register(ctx context.Context, path string) error {
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to kubelet: %w", err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	_, err = kubelet.NewRegistrationClient(c).Register(ctx, &kubelet.RegisterRequest{
		Version: kubelet.Version, Endpoint: filepath.Base(s.path), ResourceName: s.p.Resource(), Options: &kubelet.DevicePluginOptions{},
	})
	if err != nil {
		return fmt.Errorf("register with kubelet: %w", err)
	}
	return nil
}

// tell has kubelet know whether slots can be used.
func (s *server) tell(healthy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healthy != healthy {
		s.healthy = healthy
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// GetDevicePluginOptions implements the protocol: there are none.
func (s *server) GetDevicePluginOptions(context.Context, *kubelet.Empty) (*kubelet.DevicePluginOptions, error) {
	return &kubelet.DevicePluginOptions{}, nil
}

// PreStartContainer implements the protocol.
func (s *server) PreStartContainer(context.Context, *kubelet.PreStartContainerRequest) (*kubelet.PreStartContainerResponse, error) {
	return &kubelet.PreStartContainerResponse{}, nil
}

// ListAndWatch tells of all slots, and again when health changes.
func (s *server) ListAndWatch(_ *kubelet.Empty, stream kubelet.DevicePlugin_ListAndWatchServer) error {
	for {
		s.mu.Lock()
		healthy, changed := s.healthy, s.changed
		s.mu.Unlock()
		if err := stream.Send(s.list(healthy)); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (s *server) list(healthy bool) *kubelet.ListAndWatchResponse {
	health := kubelet.Healthy
	if !healthy {
		health = kubelet.Unhealthy
	}
	r := &kubelet.ListAndWatchResponse{}
	for _, id := range s.p.ids() {
		r.Devices = append(r.Devices, &kubelet.Device{ID: id, Health: health})
	}
	return r
}

// Allocate prepares slots for containers that are about to be made.
func (s *server) Allocate(_ context.Context, r *kubelet.AllocateRequest) (*kubelet.AllocateResponse, error) {
	reply := &kubelet.AllocateResponse{}
	for _, c := range r.GetContainerRequests() {
		one, err := s.p.allocate(c.GetDevicesIds())
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		reply.ContainerResponses = append(reply.ContainerResponses, one)
	}
	return reply, nil
}
