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
export const LISTENERS_MAX = 24576
export const HEARTBEAT_MS_MAX = 1500
export const HEARTBEAT_INTERVAL_MS = 250
export const BOUND_SYNS_MAX = 4096
export const POD_INTERFACES_MAX = 4

export const ROLE_OUTBOUND = 0
export const ROLE_INBOUND = 1
export const ROLE_HBONE = 2

export const POD_STRICT = 1
export const POD_STEER_IPV4 = 2
export const POD_STEER_IPV6 = 4

export const STAT_OUTBOUND_CAPTURED = 0
export const STAT_INBOUND_CAPTURED = 1
export const STAT_BYPASSED = 2
export const STAT_REFUSED = 3
export const STAT_ESCAPES_REFUSED = 4
export const STATS = 5

/** struct address */
export const ADDRESS = {
  bytes: 16,
  words: 0,
} as const

/** struct pod */
export const POD = {
  bytes: 20,
  flags: 0,
  interfaces: 4,
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

