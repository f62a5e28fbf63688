/*
 * Counting what the kernel carries by edge: source pod, destination pod, service. The counters are the truth;
 * events (lines of the access log) may be lost when nobody reads them.
 */
#ifndef WEFT_EDGE_H
#define WEFT_EDGE_H

#include "maps.h"

static __always_inline struct edge* find_edge(const struct flow* flow) {
  struct edge_key key = {
      .source = flow->source_pod, .destination = flow->destination_pod, .service = flow->service};
  return bpf_map_lookup_elem(&edges, &key);
}

/* Makes the edge if need be; NULL when there is no room, which is counted. */
static __always_inline struct edge* edge_of(const struct flow* flow) {
  struct edge* edge = find_edge(flow);
  if (edge) return edge;
  struct edge_key key = {
      .source = flow->source_pod, .destination = flow->destination_pod, .service = flow->service};
  struct edge empty = {};
  bpf_map_update_elem(&edges, &key, &empty, BPF_NOEXIST);
  edge = bpf_map_lookup_elem(&edges, &key);
  if (!edge) count(STAT_EDGES_LOST);
  return edge;
}

static __always_inline void count_round_trip(struct edge* edge, __u32 round_trip_us) {
  if (round_trip_us == 0) return;
  __u32 bucket = 0;
  for (; bucket < ROUND_TRIP_BOUNDS; bucket++)
    if (round_trip_us <= (__u32)ROUND_TRIP_FIRST_US << bucket) break;
  __sync_fetch_and_add(&edge->round_trip_us, round_trip_us);
  __sync_fetch_and_add(&edge->round_trips[bucket], 1);
}

#endif
