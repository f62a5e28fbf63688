/*
 * DNS over UDP: what a captured pod sends to port 53 of a resolver goes to the agent's socket in the pod's
 * netns.
 *
 *      connect(), sendmsg()   resolver:53      -> loopback address of that resolver:15053   (resolver_for)
 *      sk_lookup              that address     -> socket of a live data worker              (sk_lookup.bpf.c)
 *      recvmsg(), getpeername()  that address  -> resolver:53                               (resolver_of)
 *
 * Each resolver has a loopback address of its own, because an app may ask several at once from one socket and
 * tell the answers apart by their source. The addresses lie in 127.83.0.0/16 and in a /64 of unique local
 * ones; routes in the pod's netns make both local, with the pod's own address as source, so that
 * getsockname() stays natural.
 *
 * Names are not connections: with no live worker, or no room, questions go to the resolver as if there were
 * no mesh, from strict pods too.
 */
#ifndef WEFT_DNS_H
#define WEFT_DNS_H

#include "flow.h"

#define WEFT_IPPROTO_UDP 17

enum dns_constants {
  /* The agent's port in the pod's netns, and the port of resolvers. */
  PORT_DNS = 15053,
  PORT_DOMAIN = 53,
  /* 127.83.0.0/16 (83: "S", for "service"): the lowest 16 bits are the resolver's index. */
  DNS_IPV4_BLOCK = 0x7f530000,
  DNS_INDEX_MASK = 0xffff,
  /* The IPv6 block, 16 bits each, chosen at random in fd00::/8 as RFC 4193 asks; the index is at the end. */
  DNS_IPV6_0 = 0xfd3d,
  DNS_IPV6_1 = 0x9a1c,
  DNS_IPV6_2 = 0x6e42,
  DNS_IPV6_3 = 0x0053,
  /*
   * Resolvers of one pod whose questions are captured. Apps have three (resolv.conf); a pod that resolves
   * recursively by itself asks thousands, and is let by from here on.
   */
  RESOLVERS_PER_POD_MAX = 64,
  /* 64 for each of 1024 pods. */
  RESOLVERS_MAX = 65536,
};

enum dns_pod_flags {
  /* The families for which the pod's netns has the routes. */
  DNS_POD_IPV4 = 1,
  DNS_POD_IPV6 = 2,
};

enum dns_stat {
  /* Let by, because no data worker was alive. */
  DNS_STAT_BYPASSED = 0,
  /* Let by, because the pod asks more resolvers than are told apart. */
  DNS_STAT_RESOLVERS_FULL = 1,
  DNS_STATS = 2,
};

/* A pod whose DNS is captured, or, with no flags, was: its connected sockets may still bear the indexes. */
struct dns_pod {
  __u32 flags;
  /* Indexes that were given to resolvers, from 1. */
  __u32 resolver_count;
};

struct resolver_key {
  __u64 netns_cookie;
  struct address address;
};

struct resolver_index_key {
  __u64 netns_cookie;
  /* 64 bits so that the key has no padding. */
  __u64 index;
};

/* Captured pods by netns cookie. */
HASH_MAP(dns_pods, PODS_MAX, __u64, struct dns_pod);

/* Index of a pod's resolver by its address, and back. An address is there before its index is. */
HASH_MAP(resolvers, RESOLVERS_MAX, struct resolver_key, __u32);
HASH_MAP(resolver_addresses, RESOLVERS_MAX, struct resolver_index_key, struct address);

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, DNS_STATS);
  __type(key, __u32);
  __type(value, __u64);
} dns_stats SEC(".maps");

static __always_inline void count_dns(__u32 stat) {
  __u64* counter = bpf_map_lookup_elem(&dns_stats, &stat);
  if (counter) (*counter)++;
}

static __always_inline int address_is_multicast(const struct address* a) {
  /* 224.0.0.0/4 and what is above it, broadcast among them; ff00::/8. */
  if (address_is_mapped(a)) return (a->words[3] & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000);
  return (a->words[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* The index in a loopback address of ours, 0 when it is none. */
static __always_inline __u32 dns_index_of(const struct address* a) {
  if (address_is_mapped(a)) {
    if ((a->words[3] & bpf_htonl(~DNS_INDEX_MASK)) != bpf_htonl(DNS_IPV4_BLOCK)) return 0;
  } else if (a->words[0] != bpf_htonl((__u32)DNS_IPV6_0 << 16 | DNS_IPV6_1) ||
             a->words[1] != bpf_htonl((__u32)DNS_IPV6_2 << 16 | DNS_IPV6_3) || a->words[2] != 0 ||
             (a->words[3] & bpf_htonl(~DNS_INDEX_MASK)) != 0) {
    return 0;
  }
  return bpf_ntohl(a->words[3]) & DNS_INDEX_MASK;
}

/* Replaces a resolver's address with the loopback address of its index. */
static __always_inline void set_dns_index(struct address* a, __u32 index) {
  if (address_is_mapped(a)) {
    a->words[3] = bpf_htonl(DNS_IPV4_BLOCK | index);
    return;
  }
  a->words[0] = bpf_htonl((__u32)DNS_IPV6_0 << 16 | DNS_IPV6_1);
  a->words[1] = bpf_htonl((__u32)DNS_IPV6_2 << 16 | DNS_IPV6_3);
  a->words[2] = 0;
  a->words[3] = bpf_htonl(index);
}

/* A new resolver of a pod; 0 when there is no place. */
static __always_inline __u32 allocate_resolver(struct dns_pod* pod, const struct resolver_key* key) {
  __u32 index = 0;
  if (*(volatile __u32*)&pod->resolver_count < RESOLVERS_PER_POD_MAX)
    index = __sync_fetch_and_add(&pod->resolver_count, 1) + 1;
  if (index == 0 || index > RESOLVERS_PER_POD_MAX) return 0;
  struct resolver_index_key index_key = {.netns_cookie = key->netns_cookie, .index = index};
  /* An index that is taken (the count may be behind, when the agent has written it meanwhile) is left to its
   * owner. */
  if (bpf_map_update_elem(&resolver_addresses, &index_key, &key->address, BPF_NOEXIST)) return 0;
  if (bpf_map_update_elem(&resolvers, key, &index, BPF_NOEXIST) == 0) return index;
  /* Another CPU was faster: its index counts, ours stays unused. */
  __u32* found = bpf_map_lookup_elem(&resolvers, key);
  return found ? *found : 0;
}

static __always_inline struct dns_pod* find_dns_pod(__u64 netns_cookie) {
  return bpf_map_lookup_elem(&dns_pods, &netns_cookie);
}

/* True when the agent answers the pod's questions. */
static __always_inline int is_dns_captured(__u64 netns_cookie) {
  struct dns_pod* pod = find_dns_pod(netns_cookie);
  return pod && pod->flags;
}

/*
 * For a socket that is about to send to port 53 of `destination`: rewrites it to the loopback address of that
 * resolver and returns 1, or returns 0 when the question is not to be captured.
 */
static __always_inline int capture_resolver(struct bpf_sock_addr* ctx, __u64 netns_cookie,
                                            struct address* destination) {
  struct dns_pod* pod = find_dns_pod(netns_cookie);
  if (!pod) return 0;
  struct bpf_sock* sk = ctx->sk;
  if (!sk) return 0;
  /* A pod that asks itself has a DNS server of its own (127.0.0.53, say). */
  if (is_own_address(netns_cookie, destination) || address_is_link_local(destination) ||
      address_is_multicast(destination))
    return 0;
  if (!(pod->flags & (address_is_mapped(destination) ? DNS_POD_IPV4 : DNS_POD_IPV6))) return 0;
  if (bpf_sk_storage_get(&exempt_sockets, sk, 0, 0)) return 0;
  if (find_worker(netns_cookie, ROLE_DNS, 0) < 0) {
    count_dns(DNS_STAT_BYPASSED);
    return 0;
  }
  struct resolver_key key = {.netns_cookie = netns_cookie, .address = *destination};
  __u32* found = bpf_map_lookup_elem(&resolvers, &key);
  __u32 index = found ? *found : allocate_resolver(pod, &key);
  if (index == 0) {
    count_dns(DNS_STAT_RESOLVERS_FULL);
    return 0;
  }
  set_dns_index(destination, index);
  return 1;
}

/* The resolver behind a loopback address of ours; NULL when `shown` is none. */
static __always_inline struct address* resolver_of(struct bpf_sock_addr* ctx, const struct address* shown) {
  struct resolver_index_key key = {.index = dns_index_of(shown)};
  if (key.index == 0) return NULL;
  key.netns_cookie = bpf_get_netns_cookie(ctx);
  return bpf_map_lookup_elem(&resolver_addresses, &key);
}

#endif
