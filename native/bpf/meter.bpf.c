/*
 * tc: meters the UDP of one pod at an interface in its netns, in both directions. Every packet goes on as it
 * came. TCP, which is what pods send most of, is let go after a look at three fields of its packet.
 *
 *      payload of a packet     length in the IP header, less IP and UDP headers
 *      of its fragments        the sum of theirs: only the first has a UDP header
 *      of a GSO packet         headers once; as many packets as it will be cut into
 *
 * Attached by tcx where the kernel has it (Linux 6.6), which costs TCP half as much as a filter of traffic
 * control: an instance for each pod, with the pod's number as a constant. Elsewhere one instance serves all
 * pods: the filter has the number, as its class.
 */
#include "include/weft/meter.h"

#include <linux/if_ether.h>
#include <linux/ip.h>

#define WEFT_IPPROTO_TCP 6
#define WEFT_IPPROTO_UDP 17
#define UDP_HEADER_BYTES 8

/* Where the protocol stands in IP headers. */
#define IPV4_PROTOCOL_OFFSET 9
#define IPV6_PROTOCOL_OFFSET 6

/* Extension headers of IPv6 behind which UDP may be. */
#define HEADER_HOP_BY_HOP 0
#define HEADER_ROUTING 43
#define HEADER_FRAGMENT 44
#define HEADER_DESTINATION 60

/* Bits of the offset in an IP header, in units of eight bytes. */
#define IPV4_OFFSET_MASK 0x1fff
#define IPV6_OFFSET_MASK 0xfff8

/* TC_ACT_UNSPEC: whoever comes next decides. */
#define GO_ON (-1)

struct ipv6_header {
  __be32 version_and_flow;
  __be16 payload_length;
  __u8 next_header;
  __u8 hop_limit;
  struct address source;
  struct address destination;
};

/* What all extension headers begin with; `length` is in units of eight bytes, the first not counted. */
struct extension_header {
  __u8 next_header;
  __u8 length;
  /* Of a fragment header. */
  __be16 offset_and_flags;
};

/* The agent's number of the pod; 0 when the filter has it. */
const volatile __u32 weft_pod = 0;

static __always_inline int load(struct __sk_buff* skb, __u32 offset, void* to, __u32 bytes) {
  return bpf_skb_load_bytes_relative(skb, offset, to, bytes, BPF_HDR_START_NET) == 0;
}

/* `bytes` are those behind the IP headers. */
static __always_inline void add(struct __sk_buff* skb, __u32 direction, const struct address* remote,
                                __u32 bytes, int is_first) {
  __u32 pod = weft_pod ? weft_pod : skb->tc_classid;
  struct udp_edge_key key = {.remote = *remote, .pod = pod, .direction = direction};
  __u32 headers = is_first ? UDP_HEADER_BYTES : 0;
  /* Whoever sends may claim any length. */
  if (bytes < headers || bytes > skb->len) return;
  __u32 payload = bytes - headers, packets = skb->gso_segs;
  /* Packets of virtual machines and tunnels may not say how many they will be. */
  if (packets == 0) packets = skb->gso_size ? (payload + skb->gso_size - 1) / skb->gso_size : 1;
  add_udp(&key, payload, packets);
}

static __always_inline void meter_ipv4(struct __sk_buff* skb, __u32 direction) {
  struct iphdr ip;
  if (!load(skb, 0, &ip, sizeof(ip)) || ip.protocol != WEFT_IPPROTO_UDP) return;
  struct address remote = address_from_ipv4(direction == UDP_SENT ? ip.daddr : ip.saddr);
  __u32 header = ip.ihl * 4, total = bpf_ntohs(ip.tot_len);
  if (total < header) return;
  add(skb, direction, &remote, total - header, (ip.frag_off & bpf_htons(IPV4_OFFSET_MASK)) == 0);
}

static __always_inline void meter_ipv6(struct __sk_buff* skb, __u32 direction) {
  struct ipv6_header ip;
  if (!load(skb, 0, &ip, sizeof(ip))) return;
  __u32 next = ip.next_header, offset = sizeof(ip), is_first = 1;
  for (int i = 0; i < IPV6_HEADERS_MAX && next != WEFT_IPPROTO_UDP; i++) {
    struct extension_header extension;
    if (next != HEADER_HOP_BY_HOP && next != HEADER_ROUTING && next != HEADER_FRAGMENT &&
        next != HEADER_DESTINATION)
      return;
    /* Of a later fragment only the kind of the first one's header is known. */
    if (!is_first || !load(skb, offset, &extension, sizeof(extension))) return;
    if (next == HEADER_FRAGMENT) {
      is_first = (extension.offset_and_flags & bpf_htons(IPV6_OFFSET_MASK)) == 0;
      offset += 8;
    } else {
      offset += 8 + 8 * extension.length;
    }
    next = extension.next_header;
  }
  __u32 total = sizeof(ip) + bpf_ntohs(ip.payload_length);
  if (next != WEFT_IPPROTO_UDP || total < offset) return;
  struct address remote = direction == UDP_SENT ? ip.destination : ip.source;
  add(skb, direction, &remote, total - offset, is_first);
}

/*
 * True for most TCP of Ethernet interfaces. Reading the packet where it lies costs a third of having the IP
 * header copied; but where it begins with the IP header, as on a tunnel's interface, the fields of an
 * Ethernet header may read like one. There it begins with the IP version, too: what does so is looked at the
 * long way.
 */
static __always_inline int is_plainly_tcp(struct __sk_buff* skb) {
  void* end = (void*)(long)skb->data_end;
  struct ethhdr* ethernet = (void*)(long)skb->data;
  __u8* ip = (void*)(ethernet + 1);
  if ((void*)(ip + IPV4_PROTOCOL_OFFSET + 1) > end || ethernet->h_proto != skb->protocol) return 0;
  __u8 version = ethernet->h_dest[0] >> 4;
  if (ethernet->h_proto == bpf_htons(ETH_P_IP))
    return version != 4 && ip[IPV4_PROTOCOL_OFFSET] == WEFT_IPPROTO_TCP;
  return ethernet->h_proto == bpf_htons(ETH_P_IPV6) && version != 6 &&
         ip[IPV6_PROTOCOL_OFFSET] == WEFT_IPPROTO_TCP;
}

static __always_inline int meter(struct __sk_buff* skb, __u32 direction) {
  if (is_plainly_tcp(skb)) return GO_ON;
  if (skb->protocol == bpf_htons(ETH_P_IP))
    meter_ipv4(skb, direction);
  else if (skb->protocol == bpf_htons(ETH_P_IPV6))
    meter_ipv6(skb, direction);
  return GO_ON;
}

SEC("tc")
int weft_udp_sent(struct __sk_buff* skb) { return meter(skb, UDP_SENT); }

SEC("tc")
int weft_udp_received(struct __sk_buff* skb) { return meter(skb, UDP_RECEIVED); }

char weft_license[] SEC("license") = "Apache-2.0";
