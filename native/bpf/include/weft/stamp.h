/*
 * Says of which layout a set of pinned maps is, so that an agent of another build never misreads them. This
 * struct and its map are the one thing that must not change: every build, older or younger, reads them first.
 */
#ifndef WEFT_STAMP_H
#define WEFT_STAMP_H

#include "address.h"

struct layout_stamp {
  /* LAYOUT_HASH of the build that made the maps. */
  __u64 hash;
  /* Made with the maps, at random: tells these from any others that an agent may have notes about. */
  __u64 epoch;
  /* Of the agent that uses them, for people: text, zero at its end. */
  __u8 version[40];
  /* PASSED_HASH of that build. */
  __u64 passed;
};

/* One entry. Only agents read it. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct layout_stamp);
} layout SEC(".maps");

#endif
