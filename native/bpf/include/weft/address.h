/*
 * Addresses as every map key holds them: 16 bytes in network order, IPv4 in its IPv6-mapped form
 * (::ffff:a.b.c.d), so that one key type and one comparison serve both families. Mirrors encodeAddress in
 * src/kernel/maps.ts.
 */
#ifndef WEFT_ADDRESS_H
#define WEFT_ADDRESS_H

/* The helpers need the types of linux/bpf.h before them. */
/* clang-format off */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
/* clang-format on */

struct address {
  __u32 words[4];
};

/* Not from linux/in.h and sys/socket.h: the two cannot both be included for the BPF target. */
#define WEFT_AF_INET 2
#define WEFT_IPPROTO_TCP 6

static __always_inline struct address address_from_ipv4(__u32 ip4) {
  struct address address = {.words = {0, 0, bpf_htonl(0xffff), ip4}};
  return address;
}

static __always_inline int address_is_mapped(const struct address* a) {
  return a->words[0] == 0 && a->words[1] == 0 && a->words[2] == bpf_htonl(0xffff);
}

static __always_inline int address_equal(const struct address* a, const struct address* b) {
  return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] &&
         a->words[3] == b->words[3];
}

/*
 * Loopback, and the unspecified address: connect() to 0.0.0.0 or :: means loopback.
 */
static __always_inline int address_is_loopback(const struct address* a) {
  if (address_is_mapped(a))
    return (a->words[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) || a->words[3] == 0;
  return a->words[0] == 0 && a->words[1] == 0 && a->words[2] == 0 &&
         (a->words[3] == bpf_htonl(1) || a->words[3] == 0);
}

/* fe80::/10. IPv4 link-local addresses (169.254/16: cloud metadata) are routed like any other. */
static __always_inline int address_is_link_local(const struct address* a) {
  return (a->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

#endif
