/*
 * sockops: follows the connections that the kernel carries, at the side that made them. Records the flow when
 * its source port is known, before its SYN is sent; counts it when it is made and when it ends.
 */
#include "include/weft/carry.h"

/* From include/net/tcp_states.h. */
#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7

static __always_inline void flow_key_of(struct bpf_sock_ops* ops, struct flow_key* key) {
  if (ops->family == WEFT_AF_INET) {
    key->source = address_from_ipv4(ops->local_ip4);
    key->destination = address_from_ipv4(ops->remote_ip4);
    barrier();
  } else {
    for (int i = 0; i < 4; i++) {
      key->source.words[i] = ops->local_ip6[i];
      key->destination.words[i] = ops->remote_ip6[i];
    }
  }
  key->source_port = ops->local_port;
  key->destination_port = bpf_ntohl(ops->remote_port);
}

static __always_inline void begin(struct bpf_sock_ops* ops, struct flow* flow) {
  struct flow_key key = {};
  flow_key_of(ops, &key);
  __u32 pod = flow->destination_pod;
  bpf_map_update_elem(&flows, &key, &pod, BPF_ANY);
  flow->opened_ns = bpf_ktime_get_ns();
  bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void established(struct flow* flow) {
  flow->is_open = 1;
  count(STAT_KERNEL_CARRIED);
  struct edge* edge = edge_of(flow);
  if (edge) __sync_fetch_and_add(&edge->opened, 1);
}

static __always_inline void closed(struct bpf_sock_ops* ops, struct flow* flow) {
  struct flow_key key = {};
  flow_key_of(ops, &key);
  bpf_map_delete_elem(&flows, &key);
  __u64 sent = flow->is_open ? ops->bytes_acked : 0;
  __u64 received = flow->is_open ? ops->bytes_received : 0;
  struct edge* edge = edge_of(flow);
  if (edge) {
    __sync_fetch_and_add(&edge->sent, sent);
    __sync_fetch_and_add(&edge->received, received);
    __sync_fetch_and_add(flow->is_open ? &edge->closed : &edge->failed, 1);
  }
  struct event* event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (!event) {
    count(STAT_EVENTS_LOST);
    return;
  }
  event->flow = key;
  event->ended_ns = bpf_ktime_get_ns();
  event->duration_ns = event->ended_ns - flow->opened_ns;
  event->sent = sent;
  event->received = received;
  event->source_pod = flow->source_pod;
  event->destination_pod = flow->destination_pod;
  event->service = flow->service;
  event->kind = EVENT_CLOSED;
  event->round_trip_us = ops->srtt_us >> 3;
  event->policy = 0;
  event->original = flow->original;
  event->original_port = flow->original_port;
  event->is_open = flow->is_open;
  bpf_ringbuf_submit(event, 0);
}

SEC("sockops")
int weft_sockops(struct bpf_sock_ops* ops) {
  __u32 op = ops->op;
  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
      op != BPF_SOCK_OPS_STATE_CB)
    return 1;
  struct bpf_sock* sk = ops->sk;
  if (!sk) return 1;
  struct flow* flow = bpf_sk_storage_get(&carried_sockets, sk, 0, 0);
  if (!flow) return 1;
  if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
    begin(ops, flow);
  else if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
    established(flow);
  else if (ops->args[1] == TCP_CLOSE)
    closed(ops, flow);
  return 1;
}

char weft_license[] SEC("license") = "Apache-2.0";
