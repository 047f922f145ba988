package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// An OpenFlow is a connection to a bridge that changes single flows, without
// the time that starting ovs-ofctl takes. It speaks OpenFlow 1.0 (the numbers
// below are from its section 5). It is for one goroutine at a time.
type OpenFlow struct {
	conn net.Conn
	xid  uint32
}

const (
	openFlow10 = 1 // version

	ofHello        = 0
	ofError        = 1
	ofEchoRequest  = 2
	ofEchoReply    = 3
	ofFlowMod      = 14
	ofBarrier      = 18
	ofBarrierReply = 19

	// Wildcards: all but input port, Ethernet type, protocol, and ports, which
	// a flow may leave open too; addresses are left open by 32 bits each.
	ofWildVLAN, ofWildSrc, ofWildDst = 1 << 1, 1 << 2, 1 << 3
	ofWildTPSrc, ofWildTPDst         = 1 << 6, 1 << 7
	ofWildNWSrc, ofWildNWDst         = 32 << 8, 32 << 14
	ofWildPCP, ofWildTOS             = 1 << 20, 1 << 21
	ofNoBuffer                       = 0xffffffff
	ofNoPort                         = 0xffff
	ofHeader, ofOutput               = 8, 8 // bytes
)

// Commands of a flow's change.
const (
	FlowAdd    = 0 // in the place of the same one, if there is one
	FlowModify = 2 // of the same match and priority
	FlowDelete = 4 // of the same match and priority
)

// A UDPFlow is a flow of table 0 that sends UDP packets to a port.
type UDPFlow struct {
	Priority uint16
	InPort   uint16
	Dst      uint32 // IPv4; 0: any
	DstPort  uint16 // 0: any
	Output   uint16
}

// OpenFlow connects to a bridge.
func (o *OVSDPDK) OpenFlow(ctx context.Context, bridge string) (*OpenFlow, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", o.path(bridge+".mgmt"))
	if err != nil {
		return nil, fmt.Errorf("connect to bridge %s: %w", bridge, err)
	}
	f := &OpenFlow{conn: conn}
	if err := f.hello(); err != nil {
		return nil, errors.Join(fmt.Errorf("greet bridge %s: %w", bridge, err), conn.Close())
	}
	return f, nil
}

func (f *OpenFlow) hello() error {
	if err := f.send(ofHello, nil); err != nil {
		return err
	}
	kind, _, err := f.read()
	if err == nil && kind != ofHello {
		err = fmt.Errorf("message of type %d, want a hello", kind)
	}
	return err
}

// Close ends the connection.
func (f *OpenFlow) Close() error { return f.conn.Close() }

// Change asks for a change of a flow. It may be in force at any time until
// Barrier has returned.
func (f *OpenFlow) Change(command uint16, flow UDPFlow) error {
	return f.send(ofFlowMod, flow.message(command))
}

// Barrier returns when all changes are in the tables.
func (f *OpenFlow) Barrier() error {
	if err := f.send(ofBarrier, nil); err != nil {
		return err
	}
	for {
		switch kind, body, err := f.read(); {
		case err != nil:
			return err
		case kind == ofBarrierReply:
			return nil
		case kind == ofError:
			return fmt.Errorf("change a flow: the switch refuses: % x", body)
		case kind == ofEchoRequest:
			if err := f.send(ofEchoReply, body); err != nil {
				return err
			}
		}
	}
}

// message is the body of an ofp_flow_mod.
func (u *UDPFlow) message(command uint16) []byte {
	wild := uint32(ofWildVLAN | ofWildSrc | ofWildDst | ofWildTPSrc | ofWildNWSrc | ofWildPCP | ofWildTOS)
	if u.Dst == 0 {
		wild |= ofWildNWDst
	}
	if u.DstPort == 0 {
		wild |= ofWildTPDst
	}
	be := binary.BigEndian
	b := be.AppendUint32(nil, wild)
	b = be.AppendUint16(b, u.InPort)
	b = append(b, make([]byte, 6+6+2+1+1)...) // addresses, VLAN
	b = be.AppendUint16(b, 0x800)
	b = append(b, 0, 17, 0, 0) // TOS, protocol, padding
	b = be.AppendUint32(b, 0)
	b = be.AppendUint32(b, u.Dst)
	b = be.AppendUint16(b, 0)
	b = be.AppendUint16(b, u.DstPort)
	b = be.AppendUint64(b, 0) // cookie
	b = be.AppendUint16(b, command)
	b = be.AppendUint32(b, 0) // timeouts
	b = be.AppendUint16(b, u.Priority)
	b = be.AppendUint32(b, ofNoBuffer)
	b = be.AppendUint16(b, ofNoPort)
	b = be.AppendUint16(b, 0) // flags
	if command == FlowDelete {
		return b
	}
	b = be.AppendUint16(b, 0) // output
	b = be.AppendUint16(b, ofOutput)
	b = be.AppendUint16(b, u.Output)
	return be.AppendUint16(b, 0)
}

// answerWithin is how long the switch may take to answer.
const answerWithin = 10 * time.Second

func (f *OpenFlow) send(kind byte, body []byte) error {
	f.xid++
	b := []byte{openFlow10, kind}
	b = binary.BigEndian.AppendUint16(b, uint16(ofHeader+len(body)))
	b = binary.BigEndian.AppendUint32(b, f.xid)
	if err := f.conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	_, err := f.conn.Write(append(b, body...))
	return err
}

func (f *OpenFlow) read() (kind byte, body []byte, err error) {
	head := make([]byte, ofHeader)
	if _, err := io.ReadFull(f.conn, head); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	if n < ofHeader {
		return 0, nil, fmt.Errorf("OpenFlow message of %d bytes", n)
	}
	body = make([]byte, n-ofHeader)
	_, err = io.ReadFull(f.conn, body)
	return head[1], body, err
}
