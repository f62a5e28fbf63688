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

/* The live listener of `role`, or NULL. The caller must release it. */
static __always_inline struct bpf_sock* find_listener(__u64 netns_cookie, enum listener_role role) {
  struct listener_key key = {.netns_cookie = netns_cookie, .role = role};
  return bpf_map_lookup_elem(&listeners, &key);
}

#endif
