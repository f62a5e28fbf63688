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
#include "stamp.h"

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
  /* Four roles a pod for eight workers each; with more workers there is room for fewer pods. */
  LISTENERS_MAX = 32768,
  /*
   * A data worker that has not been heard of for so long gets no connections. Four missed beats: a shorter
   * time would take a long garbage collection for a hang.
   */
  HEARTBEAT_MS_MAX = 1500,
  HEARTBEAT_INTERVAL_MS = 250,
  /* FUTEX_OWNER_DIED of linux/futex.h: the kernel's mark in `worker_threads`. */
  WORKER_THREAD_DIED = 0x40000000,
  /* Destinations to which sockets bound to an interface are connecting at one moment. The oldest give way. */
  BOUND_SYNS_MAX = 4096,
  /* Addresses and ports whose connections the kernel may carry: those of the TCP services that pods ask for.
   */
  FRONTENDS_MAX = 65536,
  /* Their slots; a service has at most SLOTS_MAX of them, which is the grain of its weights. */
  BACKENDS_MAX = 262144,
  SLOTS_MAX = 256,
  /* Source pod, destination pod and port: 256 pods of one node that all talk to each other on four ports. */
  VERDICTS_MAX = 262144,
  /* Connections that are being made. The oldest give way: they have long been made or given up. */
  FLOWS_MAX = 65536,
  /* Source pod, destination pod and service: as many series as telemetry keeps. */
  EDGES_MAX = 65536,
  /* Bytes of the ring of events, each of which takes 128: 32,768 of them, three seconds at 10,000 a second.
   */
  EVENTS_BYTES = 4194304,
  /*
   * Histogram of round trips: the first bound in microseconds, each next one is twice as long, and one more
   * bucket for what is longer. From 16 us (both pods on one idle node) to 524 ms.
   */
  ROUND_TRIP_FIRST_US = 16,
  ROUND_TRIP_BOUNDS = 16,
  ROUND_TRIP_BUCKETS = 17,
  /* Ports of pods that their kubelet probes: sixteen a pod, addresses of two families counted. */
  PROBED_MAX = 16384,
  /* Interfaces per pod to which a socket may be bound (SO_BINDTODEVICE) and still be steered. */
  POD_INTERFACES_MAX = 4,
};

enum listener_role {
  ROLE_OUTBOUND = 0,
  ROLE_INBOUND = 1,
  ROLE_HBONE = 2,
  /* A UDP socket: see dns.h. */
  ROLE_DNS = 3,
};

enum pod_flags {
  /* With no listener left, connections are refused, not let by. */
  POD_STRICT = 1,
  /* The families for which the pod's netns has steering routes. */
  POD_STEER_IPV4 = 2,
  POD_STEER_IPV6 = 4,
  /* The agent takes no new connections of the pod: they go as if it was not there. */
  POD_UNSERVED = 8,
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
  /* Decided by the programs and carried by the kernel alone. */
  STAT_KERNEL_CARRIED = 5,
  /* Denied by policy in the kernel. */
  STAT_KERNEL_DENIED = 6,
  /* Events that found the ring full: lines that the access log lacks. */
  STAT_EVENTS_LOST = 7,
  /* Connections and denials whose edge found no room: no other metric has them. */
  STAT_EDGES_LOST = 8,
  STATS = 9,
};

/* What policy says of a source, a destination and a port. Without a verdict the agent decides. */
enum verdict {
  VERDICT_ALLOW = 1,
  VERDICT_DENY = 2,
};

/* How a connection ended. */
enum outcome {
  /* In order: both sides have closed. */
  OUTCOME_CLOSED = 0,
  /* Broken off by the side that made it, or nobody answered any more. */
  OUTCOME_RESET_BY_SOURCE = 1,
  OUTCOME_RESET_BY_DESTINATION = 2,
  /* Broken off while policy denies it: it had been allowed when it was made. */
  OUTCOME_EXPELLED = 3,
  /* The handshake was refused or never answered. */
  OUTCOME_FAILED = 4,
  /* Refused by policy at connect(). */
  OUTCOME_DENIED = 5,
  OUTCOMES = 6,
};

struct pod {
  __u32 flags;
  /* The agent's number of this pod, never 0, and of the rules that its connections follow. */
  __u32 id;
  __u32 scope;
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

enum frontend_flags {
  /* Only while nobody serves: then any endpoint is better than none. */
  FRONTEND_FALLBACK = 1,
};

/*
 * A service as one scope sees it; scope 0 is what everyone sees who has no rules of his own. Ports are in
 * host order everywhere.
 */
struct frontend_key {
  struct address address;
  __u32 scope;
  __u32 port;
};

struct frontend {
  __u32 service;
  __u32 slots;
  __u32 flags;
};

struct backend_key {
  __u32 service;
  __u32 slot;
};

/* Weights are how many slots an endpoint has. */
struct backend {
  struct address address;
  __u32 port;
  /* Its pod, if the kernel may carry connections to it; 0 when the agent has to. */
  __u32 pod;
};

struct verdict_key {
  __u32 source;
  __u32 destination;
  __u32 port;
};

/* A policy that denies, for the log; 0 when nothing allows. */
struct verdict_value {
  __u32 verdict;
  __u32 policy;
};

/* Both ends of a connection, as its first packet shows them. */
struct flow_key {
  struct address source;
  struct address destination;
  __u32 source_port;
  __u32 destination_port;
};

/* A connection that the kernel carries; lives with the socket that made it. */
struct flow {
  /* What the app dialled, for getpeername(). */
  struct address original;
  struct address destination;
  __u32 original_port;
  __u32 destination_port;
  __u32 source_pod;
  __u32 destination_pod;
  __u32 service;
  /* 1 once the handshake is done. */
  __u32 is_open;
  /* When its first packet was sent; 0 before that. */
  __u64 opened_ns;
  /* 1 when its edge had room for it, so that it is counted there until its end. */
  __u32 is_counted;
  /* 1 when the destination's FIN has been seen, and the sequence number after it. */
  __u32 has_fin;
  __u32 fin_end;
};

struct edge_key {
  __u32 source;
  __u32 destination;
  __u32 service;
};

/* Counted up for ever. Bytes are added at the end of a connection: those of open ones are with their sockets.
 */
struct edge {
  /* Connections whose first packet was sent: those that ended otherwise than by denial, and those that have
   * not. */
  __u64 attempted;
  __u64 opened;
  __u64 ended[OUTCOMES];
  /* Of the apps' bytes, as the source counts them: acknowledged by the destination, and come from it. */
  __u64 sent;
  __u64 received;
  /* Smoothed round trips at the end of connections: their sum, and how many were of which length. */
  __u64 round_trip_us;
  __u64 round_trips[ROUND_TRIP_BUCKETS];
};

struct event {
  struct flow_key flow;
  __u64 ended_ns;
  __u64 duration_ns;
  __u64 sent;
  __u64 received;
  __u32 source_pod;
  __u32 destination_pod;
  __u32 service;
  __u32 outcome;
  /* Microseconds, smoothed; 0 when it was never measured. */
  __u32 round_trip_us;
  /* Of a denial: see verdict_value. */
  __u32 policy;
  struct address original;
  __u32 original_port;
};

/* An address and a port of a pod to which the node's kubelet connects. */
struct probed_key {
  struct address address;
  __u32 port;
};

/* Where a socket of the node connects to, when that is one of those. */
struct probe {
  struct probed_key destination;
  __u32 pod;
};

/* What a steered socket had before, so that its next connect() can undo the steering. */
struct steered_socket {
  __u32 previous_mark;
};

/* A hash map that takes no memory before it has entries. */
#define HASH_MAP(name, entries, key_type, value_type) \
  struct {                                            \
    __uint(type, BPF_MAP_TYPE_HASH);                  \
    __uint(map_flags, BPF_F_NO_PREALLOC);             \
    __uint(max_entries, entries);                     \
    __type(key, key_type);                            \
    __type(value, value_type);                        \
  } name SEC(".maps")

/* Enrolled pods by netns cookie. Inserting and deleting switches both directions at once. */
HASH_MAP(pods, PODS_MAX, __u64, struct pod);

/* Addresses that are local in a pod's netns. The value only says that the key is there. */
HASH_MAP(own_addresses, OWN_ADDRESSES_MAX, struct own_address_key, __u32);

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

/*
 * The thread of each data worker, by slot, as a robust futex (native/addon/life_sign.cc): its id, and when it
 * has died the kernel's mark in its place. A process that is killed keeps its listeners open until its memory
 * has been given back; what they took in meanwhile would be lost, and a datagram without a word to its
 * sender. 0 when nobody has said.
 */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, WORKER_SLOTS_MAX);
  __type(key, __u32);
  __type(value, __u32);
} worker_threads SEC(".maps");

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

/* --- what the kernel carries without the agent --- */

HASH_MAP(frontends, FRONTENDS_MAX, struct frontend_key, struct frontend);
HASH_MAP(backends, BACKENDS_MAX, struct backend_key, struct backend);
HASH_MAP(verdicts, VERDICTS_MAX, struct verdict_key, struct verdict_value);

/* Connections that are being made, for the destination's sk_lookup: it lets these by and no others. */
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, FLOWS_MAX);
  __type(key, struct flow_key);
  /* The destination's pod, and DESTINATION_RESET of sockops.bpf.c. */
  __type(value, __u32);
} flows SEC(".maps");

/* The sockets whose connections the kernel carries, at the side that made them. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct flow);
} carried_sockets SEC(".maps");

/* The pod by its number. Connections of the node itself to these are let by, whatever policy says of others.
 */
HASH_MAP(probed, PROBED_MAX, struct probed_key, __u32);

/* The sockets of the node that make such a connection. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct probe);
} probing_sockets SEC(".maps");

HASH_MAP(edges, EDGES_MAX, struct edge_key, struct edge);

/*
 * What agents have put into their metrics of each edge; written by agents only. The next agent begins here,
 * so that what happened while there was none is counted once. Of bytes it may be ahead of `edges`: agents
 * count those of open connections, too.
 */
HASH_MAP(edges_accounted, EDGES_MAX, struct edge_key, struct edge);

/* Connections that have ended, and denials: lines of the access log. Counters do not depend on it. */
struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, EVENTS_BYTES);
} events SEC(".maps");

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
