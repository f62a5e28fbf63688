/*
 * Questions about a connection that both hooks ask: is this address the pod's own, is a listener of the agent
 * alive.
 */
#ifndef WEFT_FLOW_H
#define WEFT_FLOW_H

#include "maps.h"

/* The loopback interface has index 1 in every netns. */
#define LOOPBACK_IFINDEX 1

static __always_inline int is_own_address(__u64 netns_cookie, const struct address* address) {
  struct own_address_key key = {.netns_cookie = netns_cookie, .address = *address};
  return address_is_loopback(address) || bpf_map_lookup_elem(&own_addresses, &key) != NULL;
}

static __always_inline int is_alive(__u32 slot, __u64 now) {
  __u32* thread = bpf_map_lookup_elem(&worker_threads, &slot);
  if (!thread || (*(volatile __u32*)thread & WORKER_THREAD_DIED)) return 0;
  __u64* beat = bpf_map_lookup_elem(&heartbeats, &slot);
  /* Another CPU may have written a later time than `now`. */
  return beat && (__s64)(now - *beat) <= (__s64)HEARTBEAT_MS_MAX * 1000000;
}

/*
 * The slot of a live data worker that has a listener of `role` in the netns, or -1. Connections spread by
 * `hash`; those of a worker that is silent go to the next.
 *
 * Not inlined and not static: the verifier looks at its loop once, and not in every state of every caller,
 * which would be more than it is willing to look at.
 */
__attribute__((noinline)) int find_worker(__u64 netns_cookie, __u32 role, __u32 hash) {
  __u32 zero = 0;
  struct worker_set* serving = bpf_map_lookup_elem(&serving_workers, &zero);
  if (!serving) return -1;
  __u32 count = serving->count;
  if (count == 0 || count > WORKERS_MAX) return -1;
  __u64 now = bpf_ktime_get_ns();
  __u32 first = hash % count;
  for (__u32 tried = 0; tried < WORKERS_MAX; tried++) {
    if (tried >= count) break;
    __u32 at = (first + tried) % count;
    /* A bound that clang cannot remove; a reset to 0 would give the verifier states without number. */
    barrier_var(at);
    if (at >= WORKERS_MAX) break;
    struct listener_key key = {.netns_cookie = netns_cookie, .role = role, .slot = serving->slots[at]};
    if (!is_alive(key.slot, now)) continue;
    struct bpf_sock* listener = bpf_map_lookup_elem(&listeners, &key);
    if (!listener) continue;
    bpf_sk_release(listener);
    return (int)key.slot;
  }
  return -1;
}

/* The listener of that worker, or NULL when there is none. The caller must release it. */
static __always_inline struct bpf_sock* find_listener(__u64 netns_cookie, enum listener_role role,
                                                      __u32 hash) {
  int slot = find_worker(netns_cookie, role, hash);
  if (slot < 0) return NULL;
  struct listener_key key = {.netns_cookie = netns_cookie, .role = role, .slot = (__u32)slot};
  return bpf_map_lookup_elem(&listeners, &key);
}

/* For a new connection of a pod. */
static __always_inline struct bpf_sock* find_listener_of(const struct pod* pod, __u64 netns_cookie,
                                                         enum listener_role role, __u32 hash) {
  return pod->flags & POD_UNSERVED ? NULL : find_listener(netns_cookie, role, hash);
}

/*
 * A steered packet is known by its interface, lo, because the route that steers it is over lo. That of a
 * socket which is bound to an interface shows that interface, like a packet to an address that the pod gave
 * itself after enrolment. Only the connect hook can tell them apart: it announces the SYN, and sk_lookup
 * takes the announcement. Taking it once matters: the agent may dial the very destination next, which must
 * not come back to the agent.
 */
static __always_inline void announce_bound_syn(__u64 netns_cookie, const struct address* destination,
                                               __u32 port) {
  struct bound_syn_key key = {.netns_cookie = netns_cookie, .destination = *destination, .port = port};
  __u32 one = 1;
  if (bpf_map_update_elem(&bound_syns, &key, &one, BPF_NOEXIST) == 0) return;
  __u32* pending = bpf_map_lookup_elem(&bound_syns, &key);
  if (pending) __sync_fetch_and_add(pending, 1);
}

static __always_inline int take_bound_syn(__u64 netns_cookie, const struct address* destination, __u32 port) {
  struct bound_syn_key key = {.netns_cookie = netns_cookie, .destination = *destination, .port = port};
  __u32* pending = bpf_map_lookup_elem(&bound_syns, &key);
  if (!pending) return 0;
  /* Four attempts: as many CPUs would have to take one in between. */
  for (int i = 0; i < 4; i++) {
    __u32 seen = *(volatile __u32*)pending;
    if (seen == 0) return 0;
    if (__sync_val_compare_and_swap(pending, seen, seen - 1) == seen) return 1;
  }
  return 0;
}

#endif
