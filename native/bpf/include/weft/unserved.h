/*
 * Connections that met nobody who serves: no agent, or one whose data workers are all silent. Touched on that
 * path only. The totals are in `stats`; here is whose they were, and what agents have told of them.
 */
#ifndef WEFT_UNSERVED_H
#define WEFT_UNSERVED_H

#include "maps.h"

/* Of one pod, since an agent took account of it. */
struct unserved {
  __u64 bypassed_outbound;
  __u64 bypassed_inbound;
  __u64 refused_outbound;
  __u64 refused_inbound;
};

/* What agents of this node have told of so far: what they count must not begin anew with each of them. */
struct absence_journal {
  /* STAT_BYPASSED and STAT_REFUSED at the last account. */
  __u64 bypassed;
  __u64 refused;
  __u64 absences;
  __u64 absent_ns;
};

/* By netns cookie. When it is full (pods that are gone leave an entry until the next account), the totals
 * still count. */
HASH_MAP(unserved, PODS_MAX, __u64, struct unserved);

/* One entry. Only agents read and write it. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct absence_journal);
} absences SEC(".maps");

static __always_inline void count_unserved(__u64 netns_cookie, int is_inbound, int is_refused) {
  count(is_refused ? STAT_REFUSED : STAT_BYPASSED);
  struct unserved* of_pod = bpf_map_lookup_elem(&unserved, &netns_cookie);
  if (!of_pod) {
    struct unserved none = {};
    bpf_map_update_elem(&unserved, &netns_cookie, &none, BPF_NOEXIST);
    of_pod = bpf_map_lookup_elem(&unserved, &netns_cookie);
    if (!of_pod) return;
  }
  __u64* counter = is_inbound ? (is_refused ? &of_pod->refused_inbound : &of_pod->bypassed_inbound)
                              : (is_refused ? &of_pod->refused_outbound : &of_pod->bypassed_outbound);
  __sync_fetch_and_add(counter, 1);
}

#endif
