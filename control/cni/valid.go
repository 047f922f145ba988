package cni

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"

	"millrace/control/cni/attach"
)

// valid are the attachments that the runtime still has. An empty list and null are none; where there is no list,
// or one of it cannot be, GC removes nothing: it would remove what was to be kept.
func (c *call) valid() ([]attach.Key, error) {
	text := c.Valid
	if text == nil {
		text = c.ValidOld
	}
	if text == nil {
		return nil, invalid("cni.dev/valid-attachments", "it is missing: GC would remove all that the network has")
	}
	list, err := decodeValid(text)
	if err != nil {
		return nil, err
	}
	keys := make([]attach.Key, 0, len(list))
	for _, v := range list {
		k := attach.Key{Network: c.Name, ContainerID: v.ContainerID, IfName: v.IfName}
		if err := k.Check(); err != nil {
			return nil, invalid("cni.dev/valid-attachments", "%v", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// decodeValid reads a list of attachments.
func decodeValid(text json.RawMessage) (list []types.GCAttachment, err error) {
	if len(text) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration: cni.dev/valid-attachments: "+err.Error(), "")
	}
	return list, nil
}
