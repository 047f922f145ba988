// Package nfttest speaks to netfilter for tests that compare with the kernel's connection
// tracking: batches of netlink messages (linux/netfilter/nfnetlink.h, nf_tables.h), for the
// network namespace of the calling thread.
package nfttest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Flags of a message that makes something, and the kinds of messages of nftables.
const (
	Create = unix.NLM_F_REQUEST | unix.NLM_F_CREATE | unix.NLM_F_APPEND
	Tables = unix.NFNL_SUBSYS_NFTABLES << 8
)

// A Batch is messages that take effect together.
type Batch struct {
	bytes []byte
	n     uint32
}

// Add appends a message.
func (b *Batch) Add(kind, flags uint16, family uint8, resource uint16, parts ...[]byte) {
	body := binary.BigEndian.AppendUint16([]byte{family, 0}, resource)
	for _, p := range parts {
		body = append(body, p...)
	}
	h := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	h = binary.NativeEndian.AppendUint16(h, kind)
	h = binary.NativeEndian.AppendUint16(h, flags)
	h = binary.NativeEndian.AppendUint32(h, b.n)
	b.n++
	b.bytes = append(append(append(b.bytes, h...), 0, 0, 0, 0), body...)
}

// Begin and End are around the messages of nftables.
func (b *Batch) Begin() {
	b.Add(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES)
}

// End asks for an answer, too.
func (b *Batch) End() {
	b.Add(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST|unix.NLM_F_ACK, 0, unix.NFNL_SUBSYS_NFTABLES)
}

// Commit sends the batch, and takes the first answer, which one of its messages has to ask for.
// The error is what this machine lacks, or a mistake.
func (b *Batch) Commit() error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netfilter (nfnetlink): %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	answer := make([]byte, 1<<16)
	n := 0
	if err = unix.Sendto(s, b.bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		n, _, err = unix.Recvfrom(s, answer, 0)
	}
	if err == nil && n < 32 {
		err = errors.New("a short answer")
	}
	if err != nil {
		return fmt.Errorf("nftables: %d bytes: %w", n, err)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
		return fmt.Errorf("nftables with ct and NAT (nf_tables, nft_ct, nft_nat): message %d: %w", binary.NativeEndian.Uint32(answer[28:]), unix.Errno(-code))
	}
	return nil
}

// Attr is an attribute.
func Attr(kind uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), data...)
	return append(b, make([]byte, -len(b)&3)...)
}

// Nest is an attribute of attributes.
func Nest(kind uint16, parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return Attr(kind|unix.NLA_F_NESTED, all)
}

// Text is an attribute.
func Text(kind uint16, s string) []byte { return Attr(kind, append([]byte(s), 0)) }

// Number is an attribute, in the order of bytes that nftables wants.
func Number(kind uint16, n uint32) []byte {
	return Attr(kind, binary.BigEndian.AppendUint32(nil, n))
}

// Expr is an expression of a rule.
func Expr(name string, parts ...[]byte) []byte {
	return Nest(unix.NFTA_LIST_ELEM, Text(unix.NFTA_EXPR_NAME, name), Nest(unix.NFTA_EXPR_DATA, parts...))
}

// Table makes a table of IPv4.
func (b *Batch) Table(name string) {
	b.Add(Tables|unix.NFT_MSG_NEWTABLE, Create, unix.NFPROTO_IPV4, 0, Text(unix.NFTA_TABLE_NAME, name))
}

// Chain makes a chain of a kind (filter, nat) at a hook, such as 2 for what is forwarded.
func (b *Batch) Chain(table, name, kind string, hook uint32, priority int32) {
	b.Add(Tables|unix.NFT_MSG_NEWCHAIN, Create, unix.NFPROTO_IPV4, 0, Text(unix.NFTA_CHAIN_TABLE, table), Text(unix.NFTA_CHAIN_NAME, name),
		Nest(unix.NFTA_CHAIN_HOOK, Number(unix.NFTA_HOOK_HOOKNUM, hook), Number(unix.NFTA_HOOK_PRIORITY, uint32(priority))), Text(unix.NFTA_CHAIN_TYPE, kind))
}

// Rule appends a rule to a chain.
func (b *Batch) Rule(table, chain string, exprs ...[]byte) {
	b.Add(Tables|unix.NFT_MSG_NEWRULE, Create, unix.NFPROTO_IPV4, 0, Text(unix.NFTA_RULE_TABLE, table), Text(unix.NFTA_RULE_CHAIN, chain), Nest(unix.NFTA_RULE_EXPRESSIONS, exprs...))
}
