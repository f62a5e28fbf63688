/*
 * Names every type that kernel and agent share. Compiled for its BTF only: print_layout turns that into
 * src/kernel/layout.generated.ts.
 */
#include "include/weft/dns.h"
#include "include/weft/maps.h"
#include "include/weft/meter.h"
#include "include/weft/unserved.h"

/* A type is in the BTF when something uses it. */
struct layout {
  enum capture_constants constants;
  enum listener_role role;
  enum pod_flags flags;
  enum frontend_flags frontend_flags;
  enum stat stat;
  enum verdict verdict;
  enum outcome outcome;
  struct address address;
  struct pod pod;
  struct own_address_key own_address_key;
  struct listener_key listener_key;
  struct worker_set worker_set;
  struct bound_syn_key bound_syn_key;
  struct frontend_key frontend_key;
  struct frontend frontend;
  struct backend_key backend_key;
  struct backend backend;
  struct verdict_key verdict_key;
  struct verdict_value verdict_value;
  struct flow_key flow_key;
  struct flow flow;
  struct probed_key probed_key;
  struct probe probe;
  struct edge_key edge_key;
  struct edge edge;
  struct event event;
  struct unserved unserved;
  struct absence_journal absence_journal;
  enum dns_constants dns_constants;
  enum dns_pod_flags dns_pod_flags;
  enum dns_stat dns_stat;
  struct dns_pod dns_pod;
  struct resolver_key resolver_key;
  struct resolver_index_key resolver_index_key;
  enum udp_meter_constants udp_meter_constants;
  enum tcx_direction tcx_direction;
  enum udp_direction udp_direction;
  struct udp_edge_key udp_edge_key;
  struct udp_edge udp_edge;
  struct layout_stamp layout_stamp;
} shared;

/*
 * What is in the maps that one agent passes on to the next although the layout of others differs: PASSED_MAPS
 * of src/kernel/capture-hooks.ts. They concern sockets and connections that are on their way at that moment.
 */
struct passed {
  enum dns_constants dns_constants;
  enum dns_pod_flags dns_pod_flags;
  struct address address;
  struct bound_syn_key bound_syn_key;
  struct flow_key flow_key;
  struct dns_pod dns_pod;
  struct resolver_key resolver_key;
  struct resolver_index_key resolver_index_key;
} passed;
