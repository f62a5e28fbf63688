/*
 * The maps that kernel and agent share, and their keys and values. The same nouns are in src/kernel/maps.ts,
 * whose offsets and constants come from the BTF of these declarations (layout.c ->
 * src/kernel/layout.generated.ts).
 *
 * Every agent has maps of its own, so two agents on one kernel cannot touch each other's pods. The connect
 * object creates the maps; each sk_lookup instance is loaded with the same ones.
 */
#ifndef WEFT_MAPS_H
#define WEFT_MAPS_H

#include "address.h"

/* Shared numbers are enums because BTF carries enums, not macros. */
enum capture_constants {
  /* Mark of steered sockets. It never leaves the pod: marked packets are delivered over lo. */
  STEER_MARK = 0x57450001,
  /* Routing table in the pod's netns that delivers marked packets locally, and the priority of its rule. */
  STEER_TABLE = 151,
  STEER_RULE_PRIORITY = 151,
  PORT_OUTBOUND = 15001,
  PORT_INBOUND = 15006,
  PORT_HBONE = 15008,
  /* Pods of one node: four times what Kubernetes recommends (110), and more than any provider allows. */
  PODS_MAX = 1024,
  /* Addresses of all pods, link-local ones included: eight a pod. */
  OWN_ADDRESSES_MAX = 8192,
  /* Data workers of one agent; src/agent/config.ts allows no more. */
  WORKERS_MAX = 64,
  /* Slots of data workers: those of two agents, while one hands over to the next. */
  WORKER_SLOTS_MAX = 128,
  /* Three roles a pod for eight workers each; with more workers there is room for fewer pods. */
  LISTENERS_MAX = 24576,
  /*
   * A data worker that has not been heard of for so long gets no connections. Four missed beats: a shorter
   * time would take a long garbage collection for a hang.
   */
  HEARTBEAT_MS_MAX = 1500,
  HEARTBEAT_INTERVAL_MS = 250,
  /* Destinations to which sockets bound to an interface are connecting at one moment. The oldest give way. */
  BOUND_SYNS_MAX = 4096,
  /* Interfaces per pod to which a socket may be bound (SO_BINDTODEVICE) and still be steered. */
  POD_INTERFACES_MAX = 4,
};

enum listener_role {
  ROLE_OUTBOUND = 0,
  ROLE_INBOUND = 1,
  ROLE_HBONE = 2,
};

enum pod_flags {
  /* With no listener left, connections are refused, not let by. */
  POD_STRICT = 1,
  /* The families for which the pod's netns has steering routes. */
  POD_STEER_IPV4 = 2,
  POD_STEER_IPV6 = 4,
};

enum stat {
  STAT_OUTBOUND_CAPTURED = 0,
  STAT_INBOUND_CAPTURED = 1,
  /* Let by, because no listener was left and the pod is not strict. */
  STAT_BYPASSED = 2,
  /* Refused, because no listener was left and the pod is strict. */
  STAT_REFUSED = 3,
  /* Refused, because the socket was bound to an interface from which it cannot be steered. */
  STAT_ESCAPES_REFUSED = 4,
  STATS = 5,
};

struct pod {
  __u32 flags;
  /* Indexes of the interfaces with steering routes; 0 ends the list. */
  __u32 interfaces[POD_INTERFACES_MAX];
};

struct own_address_key {
  __u64 netns_cookie;
  struct address address;
};

struct listener_key {
  __u64 netns_cookie;
  __u32 role;
  __u32 slot;
};

/* The slots of the data workers that serve now. */
struct worker_set {
  __u32 count;
  __u32 slots[WORKERS_MAX];
};

struct bound_syn_key {
  __u64 netns_cookie;
  struct address destination;
  /* Host order; 64 bits so that the key has no padding. */
  __u64 port;
};

/* What a steered socket had before, so that its next connect() can undo the steering. */
struct steered_socket {
  __u32 previous_mark;
};

/* Enrolled pods by netns cookie. Inserting and deleting switches both directions at once. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PODS_MAX);
  __type(key, __u64);
  __type(value, struct pod);
} pods SEC(".maps");

/* Addresses that are local in a pod's netns. The value only says that the key is there. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, OWN_ADDRESSES_MAX);
  __type(key, struct own_address_key);
  __type(value, __u32);
} own_addresses SEC(".maps");

/*
 * The agent's listeners, one per pod, role and data worker: who takes a connection is decided here, not by
 * the kernel's choice within a SO_REUSEPORT group, so that a worker can be left out while its listener is
 * open. The kernel removes a socket when its last descriptor is closed, also when the agent is killed.
 */
struct {
  __uint(type, BPF_MAP_TYPE_SOCKHASH);
  __uint(max_entries, LISTENERS_MAX);
  __type(key, struct listener_key);
  __type(value, __u64);
} listeners SEC(".maps");

/* The one entry says which data workers take connections. The agent's main thread writes it. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct worker_set);
} serving_workers SEC(".maps");

/*
 * When each data worker's event loop was last seen to run, by slot: nanoseconds of CLOCK_MONOTONIC, as
 * bpf_ktime_get_ns() counts. The workers write, so that a stopped or blocked one falls silent.
 */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WORKER_SLOTS_MAX);
  __type(key, __u32);
  __type(value, __u64);
} heartbeats SEC(".maps");

/* The agent's own sockets. Only who holds the map can put a socket in; a mark could be forged by a pod. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u32);
} exempt_sockets SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct steered_socket);
} steered_sockets SEC(".maps");

/* How many steered sockets that are bound to an interface have a SYN under way to a destination: see flow.h.
 */
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, BOUND_SYNS_MAX);
  __type(key, struct bound_syn_key);
  __type(value, __u32);
} bound_syns SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, STATS);
  __type(key, __u32);
  __type(value, __u64);
} stats SEC(".maps");

static __always_inline void count(__u32 stat) {
  __u64* counter = bpf_map_lookup_elem(&stats, &stat);
  if (counter) (*counter)++;
}

#endif
