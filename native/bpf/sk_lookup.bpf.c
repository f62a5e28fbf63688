/*
 * sk_lookup: chooses the agent's listener for connections that begin in, or come to, one pod's netns. Nothing
 * is rewritten: getsockname() of the accepted socket is the original destination, getpeername() the real
 * client.
 *
 *      from inside the pod, to another address   (steered by connect.bpf.c)    -> outbound listener
 *      from inside the pod, to the pod itself    (also the agent, to the app)  -> the pod
 *      from outside, port 15008                                                -> HBONE listener
 *      from outside, any other port                                            -> inbound listener
 *
 * One instance is loaded per pod, with the pod's netns cookie as a constant: the cookie helper is refused in
 * this hook, and addresses do not name a pod (several per pod, link-local ones, one the pod gives itself
 * later).
 */
#include "include/weft/dns.h"
#include "include/weft/flow.h"
#include "include/weft/unserved.h"

const volatile __u64 netns_cookie = 0;

/*
 * The same for every packet of a connection, so that one which has to be looked up again (a SYN cookie that
 * comes back) meets the same worker. Clients differ in few bits, at either end of a port: each of them must
 * reach the lowest bits of the result, which choose among few workers.
 */
static __always_inline __u32 hash_of(struct bpf_sk_lookup* ctx) {
  __u32 hash = ((__u32)ctx->remote_port << 16 | ctx->local_port) ^ ctx->remote_ip4 ^ ctx->remote_ip6[3];
  hash = (hash ^ (hash >> 16)) * 0x45d9f3bu;
  hash = (hash ^ (hash >> 16)) * 0x45d9f3bu;
  return hash ^ (hash >> 16);
}

/* Without BPF_SK_LOOKUP_F_NO_REUSEPORT the kernel would choose once more, among all workers. */
static __always_inline int assign(struct bpf_sk_lookup* ctx, struct bpf_sock* listener,
                                  enum listener_role role, int is_refused_without) {
  if (!listener) {
    count_unserved(netns_cookie, role != ROLE_OUTBOUND, is_refused_without);
    return is_refused_without ? SK_DROP : SK_PASS;
  }
  long error = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_NO_REUSEPORT);
  bpf_sk_release(listener);
  if (error) return SK_DROP;
  /* Outbound connections were counted at connect(). */
  if (role != ROLE_OUTBOUND) count(STAT_INBOUND_CAPTURED);
  return SK_PASS;
}

/* True when the kernel has decided at the source's connect() that exactly this connection may come here. */
static __always_inline int is_carried(struct bpf_sk_lookup* ctx, const struct pod* pod,
                                      const struct address* local, const struct address* remote) {
  struct flow_key key = {.source = *remote,
                         .destination = *local,
                         .source_port = bpf_ntohs(ctx->remote_port),
                         .destination_port = ctx->local_port};
  __u32* destination_pod = bpf_map_lookup_elem(&flows, &key);
  return destination_pod && *destination_pod == pod->id;
}

static __always_inline int assign_from_outside(struct bpf_sk_lookup* ctx, const struct address* local,
                                               const struct address* remote) {
  __u32 port = ctx->local_port;
  if (port == PORT_OUTBOUND || port == PORT_INBOUND) return SK_DROP;
  __u64 cookie = netns_cookie;
  struct pod* pod = bpf_map_lookup_elem(&pods, &cookie);
  if (!pod || is_carried(ctx, pod, local, remote)) return SK_PASS;
  enum listener_role role = port == PORT_HBONE ? ROLE_HBONE : ROLE_INBOUND;
  struct bpf_sock* listener = find_listener_of(pod, cookie, role, hash_of(ctx));
  return assign(ctx, listener, role, (pod->flags & POD_STRICT) != 0);
}

/* The agent's ports answer nobody but this program: a dial to one would make the agent dial itself. */
static __always_inline int pass_within_pod(struct bpf_sk_lookup* ctx) {
  __u32 port = ctx->local_port;
  return port == PORT_OUTBOUND || port == PORT_INBOUND || port == PORT_HBONE ? SK_DROP : SK_PASS;
}

/*
 * A datagram to the agent's DNS port. Connected sockets are found by the kernel before it asks here. With no
 * live worker the app is told at once that nobody listens, and asks anew: then it is let by.
 */
static __always_inline int assign_datagram(struct bpf_sk_lookup* ctx, const struct address* local,
                                           const struct address* remote) {
  if (ctx->local_port != PORT_DNS || !find_dns_pod(netns_cookie)) return SK_PASS;
  if (dns_index_of(local) == 0) return SK_DROP;
  if (ctx->ingress_ifindex != LOOPBACK_IFINDEX && !is_own_address(netns_cookie, remote)) return SK_DROP;
  struct bpf_sock* listener = find_listener(netns_cookie, ROLE_DNS, hash_of(ctx));
  if (!listener) return SK_DROP;
  long error = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_NO_REUSEPORT);
  bpf_sk_release(listener);
  return error ? SK_DROP : SK_PASS;
}

SEC("sk_lookup")
int weft_sk_lookup(struct bpf_sk_lookup* ctx) {
  /*
   * Another program has chosen: that of the agent before this one, while the pod has the programs of both,
   * because their maps are of different layouts. Its word holds as long as it runs.
   */
  if (ctx->sk) return SK_PASS;
  if (ctx->protocol != WEFT_IPPROTO_TCP && ctx->local_port != PORT_DNS) return SK_PASS;
  struct address local, remote;
  if (ctx->family == WEFT_AF_INET) {
    local = address_from_ipv4(ctx->local_ip4);
    remote = address_from_ipv4(ctx->remote_ip4);
    /* Keeps clang from merging the loads of both branches: the verifier refuses a modified ctx pointer. */
    barrier();
  } else {
    for (int i = 0; i < 4; i++) {
      local.words[i] = ctx->local_ip6[i];
      remote.words[i] = ctx->remote_ip6[i];
    }
  }
  if (ctx->protocol != WEFT_IPPROTO_TCP) return assign_datagram(ctx, &local, &remote);
  /*
   * Traffic to the pod's own address travels over lo although ingress_ifindex is eth0's, hence the look at
   * the source. From outside nobody can connect with such a source: the replies would stay in the pod.
   */
  if (address_equal(&local, &remote)) return pass_within_pod(ctx);
  __u64 cookie = netns_cookie;
  if (ctx->ingress_ifindex != LOOPBACK_IFINDEX) {
    if (!is_own_address(cookie, &remote)) return assign_from_outside(ctx, &local, &remote);
    if (!take_bound_syn(cookie, &local, ctx->local_port)) return pass_within_pod(ctx);
  } else if (is_own_address(cookie, &local)) {
    return pass_within_pod(ctx);
  }
  /*
   * Steered. Holds also while the pod is being withdrawn (not in `pods` any more) or not served any more: its
   * SYN is on the way, and nobody else in this netns can take it.
   */
  return assign(ctx, find_listener(cookie, ROLE_OUTBOUND, hash_of(ctx)), ROLE_OUTBOUND, 1);
}

char weft_license[] SEC("license") = "Apache-2.0";
