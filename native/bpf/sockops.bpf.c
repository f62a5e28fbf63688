/*
 * sockops: follows the connections that the kernel carries, at the side that made them. Records the flow when
 * its source port is known, before its SYN is sent; counts it when it is made and, exactly once, when it
 * ends.
 *
 *      connect()      SYN sent        handshake        app closes          TCP_CLOSE
 *      storage made   flow, attempt   opened           look out for FINs   outcome, bytes; storage deleted
 *
 * Sockets of the node that probe a pod have their flow recorded likewise, and are not counted.
 *
 * The socket at the destination is looked at only when it is broken off: it tells the source's side who did
 * it.
 */
#include <linux/tcp.h>

#include "include/weft/carry.h"

/* From include/net/tcp_states.h. */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_CLOSING 11

/* Of `skb_tcp_flags`. */
#define TCP_FLAG_FIN 1

/* Bit of a value of `flows`, above all numbers of pods: the destination has broken the connection off. */
#define DESTINATION_RESET 0x80000000u

/* The ends as the side that made the connection sees them. */
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

static __always_inline void reverse(struct flow_key* key) {
  struct address address = key->source;
  __u32 port = key->source_port;
  key->source = key->destination;
  key->source_port = key->destination_port;
  key->destination = address;
  key->destination_port = port;
}

/* Other programs on this machine may have asked for callbacks of their own. */
static __always_inline void ask_for(struct bpf_sock_ops* ops, __u32 callbacks) {
  bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | callbacks);
}

static __always_inline void begin(struct bpf_sock_ops* ops, struct bpf_sock* sk, struct flow* flow) {
  struct flow_key key = {};
  flow_key_of(ops, &key);
  /* Left over from a connect() that failed before its first packet, on a socket that now dials elsewhere. */
  if (!address_equal(&key.destination, &flow->destination) ||
      key.destination_port != flow->destination_port) {
    bpf_sk_storage_delete(&carried_sockets, sk);
    return;
  }
  __u32 pod = flow->destination_pod;
  bpf_map_update_elem(&flows, &key, &pod, BPF_ANY);
  flow->opened_ns = bpf_ktime_get_ns();
  struct edge* edge = edge_of(flow);
  if (edge) {
    flow->is_counted = 1;
    __sync_fetch_and_add(&edge->attempted, 1);
  }
  ask_for(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void established(struct flow* flow) {
  flow->is_open = 1;
  count(STAT_KERNEL_CARRIED);
  struct edge* edge = flow->is_counted ? find_edge(flow) : NULL;
  if (edge) __sync_fetch_and_add(&edge->opened, 1);
}

/* --- the end --- */

/* Our FIN has been acknowledged, and nobody has broken the connection off. */
static __always_inline int is_orderly(struct bpf_sock_ops* ops, __u32 state) {
  if (state == TCP_FIN_WAIT2) return 1;
  return (state == TCP_CLOSING || state == TCP_LAST_ACK) && ops->snd_una == ops->snd_nxt;
}

/* `bytes_acked` also counts our SYN, and our FIN when it has been acknowledged. */
static __always_inline __u64 bytes_sent(struct bpf_sock_ops* ops, __u32 state) {
  __u64 extra = is_orderly(ops, state) ? 2 : 1;
  __u64 acknowledged = ops->bytes_acked;
  return acknowledged > extra ? acknowledged - extra : 0;
}

/*
 * `bytes_received` also counts the FIN of the other side. In most states it must have come, or cannot have
 * come; a socket that is left in FIN_WAIT2 may be so because of it, or because its app is gone.
 */
static __always_inline __u64 bytes_received(struct bpf_sock_ops* ops, __u32 state, const struct flow* flow) {
  __u64 received = ops->bytes_received;
  int has_fin = state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK || state == TCP_CLOSING ||
                (state == TCP_FIN_WAIT2 && flow->has_fin && ops->rcv_nxt == flow->fin_end);
  return has_fin && received > 0 ? received - 1 : received;
}

static __always_inline enum outcome outcome_of(struct bpf_sock_ops* ops, __u32 state, const struct flow* flow,
                                               const struct flow_key* key, __u32* policy) {
  if (!flow->is_open) return OUTCOME_FAILED;
  __u32* pod = bpf_map_lookup_elem(&flows, key);
  int is_reset_by_destination = pod && (*pod & DESTINATION_RESET);
  if (!is_reset_by_destination && is_orderly(ops, state)) return OUTCOME_CLOSED;
  struct verdict_key verdict_key = {
      .source = flow->source_pod, .destination = flow->destination_pod, .port = flow->destination_port};
  struct verdict_value* verdict = bpf_map_lookup_elem(&verdicts, &verdict_key);
  if (verdict && verdict->verdict == VERDICT_DENY) {
    *policy = verdict->policy;
    return OUTCOME_EXPELLED;
  }
  return is_reset_by_destination ? OUTCOME_RESET_BY_DESTINATION : OUTCOME_RESET_BY_SOURCE;
}

static __always_inline void closed(struct bpf_sock_ops* ops, struct bpf_sock* sk, struct flow* flow) {
  __u32 state = ops->args[0];
  struct flow_key key = {};
  flow_key_of(ops, &key);
  __u32 policy = 0;
  enum outcome outcome = outcome_of(ops, state, flow, &key, &policy);
  bpf_map_delete_elem(&flows, &key);
  __u64 sent = flow->is_open ? bytes_sent(ops, state) : 0;
  __u64 received = flow->is_open ? bytes_received(ops, state, flow) : 0;
  __u32 round_trip_us = ops->srtt_us >> 3;
  struct edge* edge = flow->is_counted ? find_edge(flow) : NULL;
  if (edge) {
    __sync_fetch_and_add(&edge->sent, sent);
    __sync_fetch_and_add(&edge->received, received);
    if (flow->is_open) count_round_trip(edge, round_trip_us);
    __sync_fetch_and_add(&edge->ended[outcome], 1);
  }
  struct event* event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (event) {
    event->flow = key;
    event->ended_ns = bpf_ktime_get_ns();
    event->duration_ns = event->ended_ns - flow->opened_ns;
    event->sent = sent;
    event->received = received;
    event->source_pod = flow->source_pod;
    event->destination_pod = flow->destination_pod;
    event->service = flow->service;
    event->outcome = outcome;
    event->round_trip_us = round_trip_us;
    event->policy = policy;
    event->original = flow->original;
    event->original_port = flow->original_port;
    /* The agent looks at the ring by the clock: waking it for each connection would cost more than the line.
     */
    bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
  } else {
    count(STAT_EVENTS_LOST);
  }
  /* The socket may live on, and be connected anew. */
  bpf_sk_storage_delete(&carried_sockets, sk);
}

static __always_inline void on_state(struct bpf_sock_ops* ops, struct bpf_sock* sk, struct flow* flow) {
  __u32 next = ops->args[1];
  /* From now on a FIN may come that no state tells of; see bytes_received. */
  if (next == TCP_FIN_WAIT1) ask_for(ops, BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG);
  if (next != TCP_CLOSE) return;
  if (flow->opened_ns != 0)
    closed(ops, sk, flow);
  else
    bpf_sk_storage_delete(&carried_sockets, sk);
}

static __always_inline void on_header(struct bpf_sock_ops* ops, struct flow* flow) {
  if (!(ops->skb_tcp_flags & TCP_FLAG_FIN)) return;
  struct tcphdr* header = ops->skb_data;
  if ((void*)(header + 1) > ops->skb_data_end) return;
  flow->fin_end = bpf_ntohl(header->seq) + ops->skb_len - header->doff * 4 + 1;
  flow->has_fin = 1;
}

/* --- a socket of the node that probes a pod --- */

/* The flow stays until the end: the last packet of the handshake may be looked up once more (SYN cookies). */
static __always_inline void on_probe(struct bpf_sock_ops* ops, struct bpf_sock* sk, struct probe* probe) {
  __u32 op = ops->op;
  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && !(op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == TCP_CLOSE))
    return;
  struct flow_key key = {};
  flow_key_of(ops, &key);
  /* Left over from a connect() that failed before its first packet, on a socket that now dials elsewhere. */
  int is_same = address_equal(&key.destination, &probe->destination.address) &&
                key.destination_port == probe->destination.port;
  if (is_same && op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
    __u32 pod = probe->pod;
    bpf_map_update_elem(&flows, &key, &pod, BPF_ANY);
    ask_for(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
    return;
  }
  if (is_same) bpf_map_delete_elem(&flows, &key);
  bpf_sk_storage_delete(&probing_sockets, sk);
}

/* --- the destination's socket --- */

static __always_inline void accepted(struct bpf_sock_ops* ops) {
  struct flow_key key = {};
  flow_key_of(ops, &key);
  reverse(&key);
  if (bpf_map_lookup_elem(&flows, &key)) ask_for(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void on_destination_state(struct bpf_sock_ops* ops) {
  if (ops->args[1] != TCP_CLOSE || is_orderly(ops, ops->args[0])) return;
  struct flow_key key = {};
  flow_key_of(ops, &key);
  reverse(&key);
  __u32* pod = bpf_map_lookup_elem(&flows, &key);
  if (pod) __sync_fetch_and_or(pod, DESTINATION_RESET);
}

SEC("sockops")
int weft_sockops(struct bpf_sock_ops* ops) {
  __u32 op = ops->op;
  if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
    accepted(ops);
    return 1;
  }
  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
      op != BPF_SOCK_OPS_STATE_CB && op != BPF_SOCK_OPS_PARSE_HDR_OPT_CB)
    return 1;
  struct bpf_sock* sk = ops->sk;
  if (!sk) return 1;
  struct flow* flow = bpf_sk_storage_get(&carried_sockets, sk, 0, 0);
  if (!flow) {
    struct probe* probe = bpf_sk_storage_get(&probing_sockets, sk, 0, 0);
    if (probe)
      on_probe(ops, sk, probe);
    else if (op == BPF_SOCK_OPS_STATE_CB)
      on_destination_state(ops);
    return 1;
  }
  /* Let by while nobody served: it has the record for getpeername() only. */
  if (flow->destination_pod == 0) return 1;
  if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
    begin(ops, sk, flow);
  else if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
    established(flow);
  else if (op == BPF_SOCK_OPS_STATE_CB)
    on_state(ops, sk, flow);
  else
    on_header(ops, flow);
  return 1;
}

char weft_license[] SEC("license") = "Apache-2.0";
