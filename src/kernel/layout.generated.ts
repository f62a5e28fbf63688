// Generated from the BTF of native/bpf/layout.c by `make -C native`; never edited.

export const STEER_MARK = 1464139777
export const STEER_TABLE = 151
export const STEER_RULE_PRIORITY = 151
export const PORT_OUTBOUND = 15001
export const PORT_INBOUND = 15006
export const PORT_HBONE = 15008
export const PODS_MAX = 1024
export const OWN_ADDRESSES_MAX = 8192
export const WORKERS_MAX = 64
export const WORKER_SLOTS_MAX = 128
export const LISTENERS_MAX = 32768
export const HEARTBEAT_MS_MAX = 1500
export const HEARTBEAT_INTERVAL_MS = 250
export const WORKER_THREAD_DIED = 1073741824
export const BOUND_SYNS_MAX = 4096
export const FRONTENDS_MAX = 65536
export const BACKENDS_MAX = 262144
export const SLOTS_MAX = 256
export const VERDICTS_MAX = 262144
export const FLOWS_MAX = 65536
export const EDGES_MAX = 65536
export const EVENTS_BYTES = 4194304
export const ROUND_TRIP_FIRST_US = 16
export const ROUND_TRIP_BOUNDS = 16
export const ROUND_TRIP_BUCKETS = 17
export const PROBED_MAX = 16384
export const POD_INTERFACES_MAX = 4

export const ROLE_OUTBOUND = 0
export const ROLE_INBOUND = 1
export const ROLE_HBONE = 2
export const ROLE_DNS = 3

export const POD_STRICT = 1
export const POD_STEER_IPV4 = 2
export const POD_STEER_IPV6 = 4
export const POD_UNSERVED = 8

export const FRONTEND_FALLBACK = 1

export const STAT_OUTBOUND_CAPTURED = 0
export const STAT_INBOUND_CAPTURED = 1
export const STAT_BYPASSED = 2
export const STAT_REFUSED = 3
export const STAT_ESCAPES_REFUSED = 4
export const STAT_KERNEL_CARRIED = 5
export const STAT_KERNEL_DENIED = 6
export const STAT_EVENTS_LOST = 7
export const STAT_EDGES_LOST = 8
export const STATS = 9

export const VERDICT_ALLOW = 1
export const VERDICT_DENY = 2

export const OUTCOME_CLOSED = 0
export const OUTCOME_RESET_BY_SOURCE = 1
export const OUTCOME_RESET_BY_DESTINATION = 2
export const OUTCOME_EXPELLED = 3
export const OUTCOME_FAILED = 4
export const OUTCOME_DENIED = 5
export const OUTCOMES = 6

/** struct address */
export const ADDRESS = {
  bytes: 16,
  words: 0,
} as const

/** struct pod */
export const POD = {
  bytes: 28,
  flags: 0,
  id: 4,
  scope: 8,
  interfaces: 12,
} as const

/** struct own_address_key */
export const OWN_ADDRESS_KEY = {
  bytes: 24,
  netns_cookie: 0,
  address: 8,
} as const

/** struct listener_key */
export const LISTENER_KEY = {
  bytes: 16,
  netns_cookie: 0,
  role: 8,
  slot: 12,
} as const

/** struct worker_set */
export const WORKER_SET = {
  bytes: 260,
  count: 0,
  slots: 4,
} as const

/** struct bound_syn_key */
export const BOUND_SYN_KEY = {
  bytes: 32,
  netns_cookie: 0,
  destination: 8,
  port: 24,
} as const

/** struct frontend_key */
export const FRONTEND_KEY = {
  bytes: 24,
  address: 0,
  scope: 16,
  port: 20,
} as const

/** struct frontend */
export const FRONTEND = {
  bytes: 12,
  service: 0,
  slots: 4,
  flags: 8,
} as const

/** struct backend_key */
export const BACKEND_KEY = {
  bytes: 8,
  service: 0,
  slot: 4,
} as const

/** struct backend */
export const BACKEND = {
  bytes: 24,
  address: 0,
  port: 16,
  pod: 20,
} as const

/** struct verdict_key */
export const VERDICT_KEY = {
  bytes: 12,
  source: 0,
  destination: 4,
  port: 8,
} as const

/** struct verdict_value */
export const VERDICT_VALUE = {
  bytes: 8,
  verdict: 0,
  policy: 4,
} as const

/** struct flow_key */
export const FLOW_KEY = {
  bytes: 40,
  source: 0,
  destination: 16,
  source_port: 32,
  destination_port: 36,
} as const

/** struct flow */
export const FLOW = {
  bytes: 80,
  original: 0,
  destination: 16,
  original_port: 32,
  destination_port: 36,
  source_pod: 40,
  destination_pod: 44,
  service: 48,
  is_open: 52,
  opened_ns: 56,
  is_counted: 64,
  has_fin: 68,
  fin_end: 72,
} as const

/** struct probed_key */
export const PROBED_KEY = {
  bytes: 20,
  address: 0,
  port: 16,
} as const

/** struct probe */
export const PROBE = {
  bytes: 24,
  destination: 0,
  pod: 20,
} as const

/** struct edge_key */
export const EDGE_KEY = {
  bytes: 12,
  source: 0,
  destination: 4,
  service: 8,
} as const

/** struct edge */
export const EDGE = {
  bytes: 224,
  attempted: 0,
  opened: 8,
  ended: 16,
  sent: 64,
  received: 72,
  round_trip_us: 80,
  round_trips: 88,
} as const

/** struct event */
export const EVENT = {
  bytes: 120,
  flow: 0,
  ended_ns: 40,
  duration_ns: 48,
  sent: 56,
  received: 64,
  source_pod: 72,
  destination_pod: 76,
  service: 80,
  outcome: 84,
  round_trip_us: 88,
  policy: 92,
  original: 96,
  original_port: 112,
} as const

/** struct unserved */
export const UNSERVED = {
  bytes: 32,
  bypassed_outbound: 0,
  bypassed_inbound: 8,
  refused_outbound: 16,
  refused_inbound: 24,
} as const

/** struct absence_journal */
export const ABSENCE_JOURNAL = {
  bytes: 32,
  bypassed: 0,
  refused: 8,
  absences: 16,
  absent_ns: 24,
} as const

export const PORT_DNS = 15053
export const PORT_DOMAIN = 53
export const DNS_IPV4_BLOCK = 2136145920
export const DNS_INDEX_MASK = 65535
export const DNS_IPV6_0 = 64829
export const DNS_IPV6_1 = 39452
export const DNS_IPV6_2 = 28226
export const DNS_IPV6_3 = 83
export const RESOLVERS_PER_POD_MAX = 64
export const RESOLVERS_MAX = 65536

export const DNS_POD_IPV4 = 1
export const DNS_POD_IPV6 = 2

export const DNS_STAT_BYPASSED = 0
export const DNS_STAT_RESOLVERS_FULL = 1
export const DNS_STATS = 2

/** struct dns_pod */
export const DNS_POD = {
  bytes: 8,
  flags: 0,
  resolver_count: 4,
} as const

/** struct resolver_key */
export const RESOLVER_KEY = {
  bytes: 24,
  netns_cookie: 0,
  address: 8,
} as const

/** struct resolver_index_key */
export const RESOLVER_INDEX_KEY = {
  bytes: 16,
  netns_cookie: 0,
  index: 8,
} as const

export const UDP_EDGES_MAX = 65536
export const IPV6_HEADERS_MAX = 6

export const TCX_INGRESS = 46
export const TCX_EGRESS = 47

export const UDP_SENT = 1
export const UDP_RECEIVED = 2

/** struct udp_edge_key */
export const UDP_EDGE_KEY = {
  bytes: 24,
  remote: 0,
  pod: 16,
  direction: 20,
} as const

/** struct udp_edge */
export const UDP_EDGE = {
  bytes: 16,
  payload: 0,
  packets: 8,
} as const

/** struct layout_stamp */
export const LAYOUT_STAMP = {
  bytes: 64,
  hash: 0,
  epoch: 8,
  version: 16,
  passed: 56,
} as const

/** Of everything above and of every map's definition. */
export const LAYOUT_HASH = 0xc65916fc6fb041f2n

/** Of what is in the maps that agents pass on: see `struct passed` in native/bpf/layout.c. */
export const PASSED_HASH = 0x1f9c238abf7b4eacn
