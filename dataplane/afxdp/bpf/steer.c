// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// The program that an AF_XDP port attaches to its device: it steers each frame
// either to the port's socket of the queue that the frame came from, or on to
// the kernel.
//
//   select == 0   all frames go to the port, but those that are addressed to the
//                 host itself (hosts)
//   select != 0   frames of a VLAN, to an address, or to a UDP port that is
//                 listed go to the port, nothing else
//
// A queue without a socket leaves its frames to the kernel.
//
// Where the port sends by runs (sends != 0), the program has a second part, which is run by
// BPF_PROG_RUN with live frames: each frame of a run becomes the next one of a slot, and leaves
// by the device.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define QUEUES 64

#define SELECT_VLANS (1 << 0)
#define SELECT_MACS (1 << 1)
#define SELECT_PORTS (1 << 2)

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

// Set before the program is loaded.
const volatile __u32 selected = 0;
const volatile __u32 sends = 0; // index of the device that frames of runs leave by; 0: there are no runs

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// What became of the frames of one queue.
struct count {
	__u64 steered; // to the port
	__u64 passed;  // to the kernel
	__u64 lost;    // no room before the frame for the tag that the device had taken out
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

// A bit for each VLAN.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096 / 64);
	__type(key, __u32);
	__type(value, __u64);
} vlans SEC(".maps");

// A bit for each UDP destination port.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

// Ethernet destination addresses, as the low 48 bits of a number, first byte lowest.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} macs SEC(".maps");

// An address of the host: IPv4 as an IPv4-mapped IPv6 address.
struct address {
	__u32 word[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct address);
	__type(value, __u8);
} hosts SEC(".maps");

// A frame being looked at.
struct cursor {
	void *at, *end;
	__u16 proto; // of what is at at
	__u16 vlan;  // of the outermost tag; 0: none
};

#define HAS(c, n) ((c)->at + (n) <= (c)->end)

static __always_inline int has_bit(void *map, __u32 bit)
{
	__u32 key = bit / 64;
	__u64 *word = bpf_map_lookup_elem(map, &key);

	return word && (*word >> (bit % 64) & 1);
}

// Moves past the Ethernet header and up to two tags.
static __always_inline int ethernet(struct cursor *c)
{
	int i;

	if (!HAS(c, ETH_HLEN))
		return 0;
	c->proto = *(__be16 *)(c->at + 12);
	c->at += ETH_HLEN;
#pragma unroll
	for (i = 0; i < 2; i++) {
		if (c->proto != bpf_htons(ETH_P_8021Q) && c->proto != bpf_htons(ETH_P_8021AD))
			break;
		if (!HAS(c, 4))
			return 0;
		if (!c->vlan)
			c->vlan = bpf_ntohs(*(__be16 *)c->at) & 0xfff;
		c->proto = *(__be16 *)(c->at + 2);
		c->at += 4;
	}
	return 1;
}

static __always_inline int is_host4(__be32 ip)
{
	struct address a = {{0, 0, bpf_htonl(0xffff), ip}};

	return bpf_map_lookup_elem(&hosts, &a) != 0;
}

static __always_inline int is_host6(void *ip)
{
	struct address a;

	__builtin_memcpy(&a, ip, sizeof(a));
	return bpf_map_lookup_elem(&hosts, &a) != 0;
}

#define ND_SOLICIT 135
#define ND_ADVERT 136

// Is the frame for the host? Its IP address is what counts, in ARP and neighbour
// discovery the one that is asked or told of.
static __always_inline int is_for_host(struct cursor *c)
{
	if (c->proto == bpf_htons(ETH_P_IP))
		return HAS(c, 20) && is_host4(*(__be32 *)(c->at + 16));
	if (c->proto == bpf_htons(ETH_P_ARP))
		return HAS(c, 28) && is_host4(*(__be32 *)(c->at + 24));
	if (c->proto != bpf_htons(ETH_P_IPV6) || !HAS(c, 40))
		return 0;
	if (is_host6(c->at + 24))
		return 1;
	if (*(__u8 *)(c->at + 6) != IPPROTO_ICMPV6 || !HAS(c, 64))
		return 0;
	if (*(__u8 *)(c->at + 40) != ND_SOLICIT && *(__u8 *)(c->at + 40) != ND_ADVERT)
		return 0;
	return is_host6(c->at + 48);
}

// Moves to the UDP header, if there is one. Fragments have none but the first.
static __always_inline int udp(struct cursor *c)
{
	__u32 len;

	if (c->proto == bpf_htons(ETH_P_IP)) {
		if (!HAS(c, 20) || *(__u8 *)(c->at + 9) != IPPROTO_UDP)
			return 0;
		if (*(__be16 *)(c->at + 6) & bpf_htons(0x1fff))
			return 0;
		len = (*(__u8 *)c->at & 0xf) * 4;
		if (len < 20)
			return 0;
		c->at += len;
	} else if (c->proto == bpf_htons(ETH_P_IPV6)) {
		if (!HAS(c, 40) || *(__u8 *)(c->at + 6) != IPPROTO_UDP)
			return 0;
		c->at += 40;
	} else {
		return 0;
	}
	return HAS(c, 8);
}

// Is the frame one of those that are asked for?
static __always_inline int is_selected(struct xdp_md *ctx, struct cursor *c)
{
	__u8 *eth = (void *)(long)ctx->data;

	if (selected & SELECT_MACS) {
		__u64 mac = 0;

		if ((void *)eth + ETH_ALEN > c->end)
			return 0;
		__builtin_memcpy(&mac, eth, ETH_ALEN);
		if (bpf_map_lookup_elem(&macs, &mac))
			return 1;
	}
	if (selected & SELECT_VLANS && has_bit(&vlans, c->vlan))
		return 1;
	if (selected & SELECT_PORTS && udp(c))
		return has_bit(&ports, bpf_ntohs(*(__be16 *)(c->at + 2)));
	return 0;
}

// Does the frame go to the port? vlan is a tag that the device has taken out, 0
// if there is none.
static __always_inline int is_ours(struct xdp_md *ctx, __u16 vlan)
{
	struct cursor c = {
		.at = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.vlan = vlan & 0xfff,
	};

	if (!ethernet(&c))
		return selected == 0;
	return selected ? is_selected(ctx, &c) : !is_for_host(&c);
}

// A run is of a lane: of what one worker sends at a time. Frames of it come from the
// loopback device and begin with the lane's number, and are FIRST bytes long.
#define SLOTS 64
#define FIRST 60
#define LOOPBACK 1

struct lane {
	__u32 next; // slot that the next frame of the run has
	__u32 unused;
	__u8 first[120]; // what a frame of a run is before it has a slot
};

// What is sent, len bytes of it.
struct slot {
	__u32 len;
	__u32 unused;
	__u8 bytes[2040];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); // one for each lane, where there are runs
	__type(key, __u32);
	__type(value, struct lane);
} lanes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); // SLOTS for each lane, where there are runs
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

// Makes the frame what the lane's next slot has, and sends it. One that there is no slot for is dropped.
static __always_inline int send(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct lane *lane;
	struct slot *slot;
	__u32 key, len;

	if (data + 1 > end)
		return XDP_DROP;
	key = *data;
	lane = bpf_map_lookup_elem(&lanes, &key);
	if (!lane || lane->next >= SLOTS)
		return XDP_DROP;
	key = key * SLOTS + lane->next++;
	slot = bpf_map_lookup_elem(&slots, &key);
	if (!slot)
		return XDP_DROP;
	len = *(volatile __u32 *)&slot->len;
	if (len < ETH_HLEN || len > sizeof(slot->bytes))
		return XDP_DROP;
	if (bpf_xdp_adjust_tail(ctx, (int)len - FIRST) || bpf_xdp_store_bytes(ctx, 0, slot->bytes, len))
		return XDP_DROP;
	return bpf_redirect(sends, 0);
}

static __always_inline struct count *count_of(__u32 queue)
{
	return bpf_map_lookup_elem(&counts, &queue);
}

static __always_inline int steer_to(struct xdp_md *ctx, struct count *n)
{
	int action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);

	if (likely(action == XDP_REDIRECT))
		n->steered++;
	else
		n->passed++;
	return action;
}

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	struct count *n;

	if (sends && ctx->ingress_ifindex == LOOPBACK)
		return send(ctx);
	n = count_of(ctx->rx_queue_index);
	if (unlikely(!n))
		return XDP_PASS;
	if (!is_ours(ctx, 0)) {
		n->passed++;
		return XDP_PASS;
	}
	return steer_to(ctx, n);
}

extern int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *vlan_proto, __u16 *vlan_tci) __ksym;

// Puts a tag back that the device has taken out.
static __always_inline int push_tag(struct xdp_md *ctx, __be16 proto, __u16 tci)
{
	__u32 addrs[3];
	void *eth, *end;

	if (bpf_xdp_adjust_head(ctx, -4))
		return 0;
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (eth + 16 > end)
		return 0;
	__builtin_memcpy(addrs, eth + 4, sizeof(addrs));
	__builtin_memcpy(eth, addrs, sizeof(addrs));
	*(__be16 *)(eth + 12) = proto;
	*(__be16 *)(eth + 14) = bpf_htons(tci);
	return 1;
}

// As steer, for devices that hand over tags beside the frame (veth: of VLAN
// devices at the other end).
SEC("xdp.frags")
int steer_tagged(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;
	struct count *n = count_of(queue);
	__be16 proto = 0;
	__u16 tci = 0;
	int tagged;

	if (unlikely(!n))
		return XDP_PASS;
	tagged = bpf_xdp_metadata_rx_vlan_tag(ctx, &proto, &tci) == 0;
	if (!is_ours(ctx, tagged ? tci : 0) || !bpf_map_lookup_elem(&sockets, &queue)) {
		n->passed++;
		return XDP_PASS;
	}
	if (tagged && !push_tag(ctx, proto, tci)) {
		n->lost++;
		return XDP_DROP;
	}
	return steer_to(ctx, n);
}

char _license[] SEC("license") = "GPL";
