/*
 * UDP of enrolled pods: counted as it passes their interfaces, by the address at the other end. Nothing is
 * changed or decided.
 */
#ifndef WEFT_METER_H
#define WEFT_METER_H

#include "address.h"

enum udp_meter_constants {
  /*
   * Pairs of a pod and an address, in one direction. Agents remove those that have been idle, so it is as
   * many as all pods of a node talk to in some minutes; beyond it packets are counted as unmetered.
   */
  UDP_EDGES_MAX = 65536,
  /* IPv6 extension headers that are looked behind. More than two are not seen in practice; after so many a
   * packet is not metered. */
  IPV6_HEADERS_MAX = 6,
};

/* Of `enum bpf_attach_type` since Linux 6.6. */
enum tcx_direction {
  TCX_INGRESS = 46,
  TCX_EGRESS = 47,
};

enum udp_direction {
  UDP_SENT = 1,
  UDP_RECEIVED = 2,
};

struct udp_edge_key {
  struct address remote;
  /* The agent's number of the pod: see struct pod. */
  __u32 pod;
  __u32 direction;
};

/* Counted up for ever. The payload is bytes of apps: without UDP, IP and link headers. */
struct udp_edge {
  __u64 payload;
  __u64 packets;
};

struct udp_edge_map {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, UDP_EDGES_MAX);
  __type(key, struct udp_edge_key);
  __type(value, struct udp_edge);
};

struct udp_edge_map udp_edges SEC(".maps");

/*
 * What agents have put into their metrics of each edge; written by agents only. The next agent begins here,
 * so that what passed while there was none is counted once.
 */
struct udp_edge_map udp_accounted SEC(".maps");

/* What found no room in `udp_edges`. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct udp_edge);
} udp_unmetered SEC(".maps");

static __always_inline void add_udp(const struct udp_edge_key* key, __u64 payload, __u64 packets) {
  struct udp_edge* edge = bpf_map_lookup_elem(&udp_edges, key);
  if (!edge) {
    struct udp_edge empty = {};
    bpf_map_update_elem(&udp_edges, key, &empty, BPF_NOEXIST);
    edge = bpf_map_lookup_elem(&udp_edges, key);
  }
  if (edge) {
    __sync_fetch_and_add(&edge->payload, payload);
    __sync_fetch_and_add(&edge->packets, packets);
    return;
  }
  __u32 zero = 0;
  struct udp_edge* unmetered = bpf_map_lookup_elem(&udp_unmetered, &zero);
  if (!unmetered) return;
  unmetered->payload += payload;
  unmetered->packets += packets;
}

#endif
