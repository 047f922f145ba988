// SPDX-License-Identifier: MIT
// A minimal AF_XDP forwarder: frames of either device go to the other, by
// descriptor, in one memory. Native mode, copies where the driver has no
// zero-copy, need-wakeup, batches of 64.
//
// l2fwd DEVICE DEVICE CPU
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <xdp/xsk.h>

enum { chunk = 2048, perPort = 4096, burst = 64 };

struct port {
	struct xsk_socket *sock;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons done, rx;
	unsigned out; /* frames that are on their way */
};

static volatile sig_atomic_t ended;
static void end(int sig) { ended = sig; }

static void check(int err, const char *what) {
	if (err) {
		errno = err < 0 ? -err : err;
		perror(what);
		exit(1);
	}
}

/* The kernel is done with frames that p sent for q: q gets them back. */
static void reclaim(struct port *p, struct port *q) {
	unsigned at, to, n;
	if (!p->out) return;
	n = xsk_ring_cons__peek(&p->done, burst, &at);
	if (!n) return;
	while (xsk_ring_prod__reserve(&q->fill, n, &to) != n) ;
	for (unsigned i = 0; i < n; i++)
		*xsk_ring_prod__fill_addr(&q->fill, to + i) = *xsk_ring_cons__comp_addr(&p->done, at + i);
	xsk_ring_prod__submit(&q->fill, n);
	xsk_ring_cons__release(&p->done, n);
	p->out -= n;
}

static void kick(struct port *p) {
	if (xsk_ring_prod__needs_wakeup(&p->tx))
		sendto(xsk_socket__fd(p->sock), NULL, 0, MSG_DONTWAIT, NULL, 0);
}

/* forward takes what came to p and sends it by q. */
static void forward(struct port *p, struct port *q) {
	unsigned at, to;
	reclaim(q, p);
	unsigned n = xsk_ring_cons__peek(&p->rx, burst, &at);
	if (!n) {
		if (q->out) kick(q);
		if (xsk_ring_prod__needs_wakeup(&p->fill))
			recvfrom(xsk_socket__fd(p->sock), NULL, 0, MSG_DONTWAIT, NULL, NULL);
		return;
	}
	while (xsk_ring_prod__reserve(&q->tx, n, &to) != n) {
		reclaim(q, p);
		kick(q);
	}
	for (unsigned i = 0; i < n; i++) {
		const struct xdp_desc *d = xsk_ring_cons__rx_desc(&p->rx, at + i);
		*xsk_ring_prod__tx_desc(&q->tx, to + i) = (struct xdp_desc){ .addr = d->addr, .len = d->len };
	}
	xsk_ring_prod__submit(&q->tx, n);
	xsk_ring_cons__release(&p->rx, n);
	q->out += n;
	kick(q);
}

int main(int argc, char **argv) {
	static struct port ports[2];
	struct xsk_umem *umem;
	struct xsk_socket_config config = {
		.rx_size = 2048, .tx_size = 2048, .xdp_flags = XDP_FLAGS_DRV_MODE, .bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
	};
	struct xsk_umem_config memory = { .fill_size = 2 * perPort, .comp_size = 2048, .frame_size = chunk };
	if (argc != 4) return 2;
	signal(SIGTERM, end);
	signal(SIGINT, end);
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[3]), &cpus);
	check(sched_setaffinity(0, sizeof cpus, &cpus) ? errno : 0, "pin");
	size_t size = (size_t)2 * perPort * chunk;
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(mem == MAP_FAILED ? errno : 0, "memory");
	check(xsk_umem__create(&umem, mem, size, &ports[0].fill, &ports[0].done, &memory), "umem");
	for (int i = 0; i < 2; i++) {
		struct port *p = &ports[i];
		unsigned to = 0;
		check(xsk_socket__create_shared(&p->sock, argv[1 + i], 0, umem, &p->rx, &p->tx, &p->fill, &p->done, &config), argv[1 + i]);
		int budget = 2048;
		setsockopt(xsk_socket__fd(p->sock), SOL_XDP, 9 /* XDP_MAX_TX_SKB_BUDGET */, &budget, sizeof budget);
		setsockopt(xsk_socket__fd(p->sock), SOL_SOCKET, SO_SNDBUFFORCE, &(int){ 8 << 20 }, sizeof(int));
		xsk_ring_prod__reserve(&p->fill, perPort, &to);
		for (unsigned k = 0; k < perPort; k++)
			*xsk_ring_prod__fill_addr(&p->fill, to + k) = ((__u64)i * perPort + k) * chunk;
		xsk_ring_prod__submit(&p->fill, perPort);
	}
	puts("ready");
	fflush(stdout);
	while (!ended) {
		forward(&ports[0], &ports[1]);
		forward(&ports[1], &ports[0]);
	}
	for (int i = 0; i < 2; i++) xsk_socket__delete(ports[i].sock);
	xsk_umem__delete(umem);
	return 0;
}
