package cni

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"millrace/control/cni/attach"
)

// resultOf is what the runtime is told: one interface, in the pod, for Multus makes its
// status of exactly one. Older versions lose socketPath and mtu when it is
// printed.
func (c *call) resultOf(at *attach.Attachment, made *attach.Attached, leased *types100.Result) (*types100.Result, error) {
	r := *leased
	r.CNIVersion = types100.ImplementedSpecVersion
	r.Interfaces = []*types100.Interface{{Name: at.IfName, Mac: at.MAC, Mtu: at.MTU, Sandbox: at.Netns, SocketPath: made.Socket}}
	for _, ip := range r.IPs {
		ip.Interface = types100.Int(0)
	}
	if len(c.DNS) > 0 {
		if err := json.Unmarshal(c.DNS, &r.DNS); err != nil {
			return nil, invalid("dns", "%v", err)
		}
	}
	prev, err := c.prev()
	if err != nil {
		return nil, err
	}
	return chained(prev, &r), nil
}

// chained is a result behind that of the plugins before us in the list, if there are any.
func chained(prev, r *types100.Result) *types100.Result {
	if prev == nil {
		return r
	}
	for _, ip := range r.IPs {
		ip.Interface = types100.Int(*ip.Interface + len(prev.Interfaces))
	}
	out := &types100.Result{
		CNIVersion: r.CNIVersion, Interfaces: append(prev.Interfaces, r.Interfaces...),
		IPs: append(prev.IPs, r.IPs...), Routes: append(prev.Routes, r.Routes...), DNS: r.DNS,
	}
	if out.DNS.IsEmpty() {
		out.DNS = prev.DNS
	}
	return out
}

// prev is the result of the plugins before us, or of ADD; nil: there is none.
func (c *call) prev() (*types100.Result, error) {
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return nil, nil
	}
	bad := func(err error) (*types100.Result, error) {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	var raw map[string]any
	if err := json.Unmarshal(c.PrevResult, &raw); err != nil {
		return bad(err)
	}
	conf := &types.PluginConf{CNIVersion: c.CNIVersion, RawPrevResult: raw}
	if err := version.ParsePrevResult(conf); err != nil {
		return bad(err)
	}
	r, err := types100.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return bad(err)
	}
	for _, i := range r.Interfaces {
		if i == nil {
			return bad(errors.New("an interface is null"))
		}
	}
	for _, ip := range r.IPs {
		if ip == nil {
			return bad(errors.New("an address is null"))
		}
	}
	return r, nil
}

// interfaceOf is the index of the pod's interface of that name in a result; -1: there is none.
func interfaceOf(r *types100.Result, name string) int {
	for i := len(r.Interfaces) - 1; i >= 0; i-- { // ours is behind those of others
		if r.Interfaces[i].Name == name {
			return i
		}
	}
	return -1
}

// deviceInfo is the file of the device-info specification 1.1.0. Its mode is the
// role of the container's end: server where the application makes the socket.
type deviceInfo struct {
	Type    string `json:"type"`
	Version string `json:"version"`
	Vhost   struct {
		Mode string `json:"mode"`
		Path string `json:"path"` // as the container has it
	} `json:"vhost-user"`
}

// DeviceInfo is the text of a device-info file.
func DeviceInfo(role, path string) ([]byte, error) {
	d := deviceInfo{Type: "vhost-user", Version: "1.1.0"}
	d.Vhost.Mode, d.Vhost.Path = role, path
	return json.Marshal(d)
}

// writeInfo writes the file by which Multus learns of the socket, if it asks for one.
func (c *call) writeInfo(made *attach.Attached) error {
	if c.Runtime == nil || c.Runtime.InfoFile == "" || made.Socket == "" {
		return nil
	}
	path := c.Runtime.InfoFile
	if !isClean(path) {
		return invalid("runtimeConfig.CNIDeviceInfoFile", "%.80q is no clean absolute path", path)
	}
	text, err := DeviceInfo(made.Role, made.InPod)
	if err != nil {
		return err
	}
	return WriteFile(path, text)
}

// removeInfo removes what an ADD that was killed has left of the file. The file itself is Multus's to remove.
func (c *call) removeInfo() error {
	if c.Runtime == nil || !isClean(c.Runtime.InfoFile) {
		return nil
	}
	if err := os.Remove(madeName(c.Runtime.InfoFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isClean reports whether s is a path that a file may be written to.
func isClean(s string) bool {
	return filepath.IsAbs(s) && filepath.Clean(s) == s && !hasControl(s) && len(s) <= pathMax
}

// WriteFile writes a file that all may read, in one step, and its directory.
func WriteFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	made := madeName(path)
	_ = os.Remove(made) // of somebody who was killed
	f, err := os.OpenFile(made, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o444), f.Close())
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(made))
	}
	return nil
}

// madeName is the name under which WriteFile makes a file: one for each file, so that whoever is killed leaves one at most.
func madeName(path string) string {
	sum := sha256.Sum256([]byte(filepath.Base(path)))
	return filepath.Join(filepath.Dir(path), fmt.Sprintf(".millrace-%x", sum[:8]))
}

// RemoveFile removes a file of WriteFile, and what somebody who was killed has left of it.
func RemoveFile(path string) error {
	var errs []error
	for _, name := range []string{path, madeName(path)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
