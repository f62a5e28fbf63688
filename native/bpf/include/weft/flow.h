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

/*
 * A live listener of `role`, or NULL. The caller must release it. Each data worker has a slot: when one dies,
 * its sockets leave the map and the next worker's stand for the group.
 */
static __always_inline struct bpf_sock* find_listener(__u64 netns_cookie, __u32 role) {
  struct listener_key key = {.netns_cookie = netns_cookie, .role = role};
  for (__u32 slot = 0; slot < LISTENER_SLOTS; slot++) {
    key.slot = slot;
    struct bpf_sock* listener = bpf_map_lookup_elem(&listeners, &key);
    if (listener) return listener;
  }
  return NULL;
}

#endif
