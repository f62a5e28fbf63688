/*
 * Connections that the kernel carries by itself: from one pod of this node to another, decided at connect()
 * by maps that the agent has filled, plain TCP afterwards. Works on when there is no agent.
 *
 *      connect()              choose_backend: service, endpoint, verdict; the address is rewritten
 *      SYN about to be sent   the source port is known: the flow is recorded       (sockops.bpf.c)
 *      SYN at the destination a recorded flow goes to the app, anything else to the agent (sk_lookup.bpf.c)
 *      close                  counters of the edge, an event for the log           (sockops.bpf.c)
 */
#ifndef WEFT_CARRY_H
#define WEFT_CARRY_H

#include "edge.h"

enum carry_decision {
  /* Not for the kernel: the agent decides. */
  CARRY_BY_AGENT = 0,
  CARRY_BY_KERNEL = 1,
  CARRY_DENIED = 2,
};

static __always_inline void record_denial(const struct flow* flow, __u32 policy) {
  count(STAT_KERNEL_DENIED);
  struct edge* edge = edge_of(flow);
  if (edge) __sync_fetch_and_add(&edge->ended[OUTCOME_DENIED], 1);
  struct event* event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (!event) {
    count(STAT_EVENTS_LOST);
    return;
  }
  __builtin_memset(event, 0, sizeof(*event));
  event->outcome = OUTCOME_DENIED;
  event->ended_ns = bpf_ktime_get_ns();
  event->flow.destination = flow->destination;
  event->flow.destination_port = flow->destination_port;
  event->original = flow->original;
  event->original_port = flow->original_port;
  event->source_pod = flow->source_pod;
  event->destination_pod = flow->destination_pod;
  event->service = flow->service;
  event->policy = policy;
  bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* What the pod's own scope says, or else what holds for everyone. */
static __always_inline struct frontend* find_frontend(const struct pod* pod, const struct address* address,
                                                      __u32 port) {
  struct frontend_key key = {.address = *address, .scope = pod->scope, .port = port};
  struct frontend* frontend = bpf_map_lookup_elem(&frontends, &key);
  if (frontend) return frontend;
  key.scope = 0;
  return bpf_map_lookup_elem(&frontends, &key);
}

static __always_inline struct verdict_value* find_verdict(const struct pod* pod, const struct flow* flow) {
  struct verdict_key key = {
      .source = pod->id, .destination = flow->destination_pod, .port = flow->destination_port};
  return bpf_map_lookup_elem(&verdicts, &key);
}

/*
 * Chooses an endpoint and fills `flow`. When the agent has to decide and cannot, it may go there all the same
 * (choose_unserved), unless the flow's service is 0: then the mesh knows no endpoint.
 */
static __always_inline enum carry_decision choose_backend(const struct pod* pod,
                                                          const struct address* address, __u32 port,
                                                          struct flow* flow) {
  struct frontend* frontend = find_frontend(pod, address, port);
  if (!frontend || frontend->slots == 0) return CARRY_BY_AGENT;
  struct backend_key backend_key = {.service = frontend->service,
                                    .slot = bpf_get_prandom_u32() % frontend->slots};
  struct backend* backend = bpf_map_lookup_elem(&backends, &backend_key);
  /* A socket cannot go over to the other family. */
  if (!backend || address_is_mapped(&backend->address) != address_is_mapped(address)) return CARRY_BY_AGENT;
  flow->original = *address;
  flow->original_port = port;
  flow->destination = backend->address;
  flow->destination_port = backend->port;
  flow->source_pod = pod->id;
  flow->destination_pod = backend->pod;
  flow->service = frontend->service;
  if (backend->pod == 0 || frontend->flags & FRONTEND_FALLBACK) return CARRY_BY_AGENT;
  struct verdict_value* verdict = find_verdict(pod, flow);
  if (!verdict) return CARRY_BY_AGENT;
  if (verdict->verdict == VERDICT_ALLOW) return CARRY_BY_KERNEL;
  record_denial(flow, verdict->policy);
  return CARRY_DENIED;
}

/*
 * What becomes of a connection that is the agent's when nobody serves and the pod is not strict: it goes to
 * the endpoint that was chosen, without anybody vouching for it, so that the destination judges it like any
 * plaintext. Policy that is known is enforced still.
 */
static __always_inline enum carry_decision choose_unserved(const struct pod* pod, struct flow* flow) {
  if (flow->service == 0) return CARRY_BY_AGENT;
  struct verdict_value* verdict = find_verdict(pod, flow);
  if (verdict && verdict->verdict == VERDICT_DENY) {
    record_denial(flow, verdict->policy);
    return CARRY_DENIED;
  }
  flow->destination_pod = 0;
  return CARRY_BY_KERNEL;
}

#endif
