/*
 * cgroup/connect4 and connect6: an enrolled pod's connect() is steered to the agent by a socket mark. The
 * address is not rewritten, so getpeername() and getsockname() of the app stay natural; routes in the pod's
 * netns deliver marked packets locally, where sk_lookup.bpf.c hands them to the agent's listener.
 *
 * Attached once per agent; a netns that is not in `pods` costs one hash look-up. A return value of 0 makes
 * connect() fail with EPERM.
 */
#include "include/weft/carry.h"
#include "include/weft/dns.h"
#include "include/weft/flow.h"
#include "include/weft/meter.h"
#include "include/weft/unserved.h"

#define SOL_SOCKET 1
#define SO_MARK 36
#define PROCEED 1
#define REFUSE 0
#define ECONNREFUSED 111

/* bpf_set_retval is of 5.18, younger than our oldest kernel; the agent has tried it (set_retval.bpf.c). */
const volatile __u32 has_set_retval = 0;

/* The node's own netns, in which its kubelet runs. No netns has the cookie 0. */
const volatile __u64 node_netns_cookie = 0;

/* Denied by policy: apps know what to do with a connection that is refused, and hardly any knows EPERM. */
static __always_inline int deny(void) {
  if (has_set_retval) bpf_set_retval(-ECONNREFUSED);
  return REFUSE;
}

/*
 * Lets a connect() by. A socket that an earlier connect() had steered gets its own mark back, else its
 * packets would go on being delivered locally, where nobody takes them any more.
 */
static __always_inline int pass(struct bpf_sock_addr* ctx) {
  struct bpf_sock* sk = ctx->sk;
  if (!sk || sk->mark != STEER_MARK) return PROCEED;
  /* Steered by us, not by another agent on this kernel: the storage map is ours alone. */
  struct steered_socket* steered = bpf_sk_storage_get(&steered_sockets, sk, 0, 0);
  if (!steered) return PROCEED;
  __u32 mark = steered->previous_mark;
  bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
  bpf_sk_storage_delete(&steered_sockets, sk);
  return PROCEED;
}

/*
 * A socket bound to an interface is routed only by routes over that interface: steering works where enrolment
 * put one. From any other the connection would leave the pod uncaptured.
 */
static __always_inline int can_steer_from(const struct pod* pod, __u32 ifindex) {
  if (ifindex == 0) return 1;
  for (int i = 0; i < POD_INTERFACES_MAX; i++)
    if (pod->interfaces[i] == ifindex) return 1;
  return 0;
}

static __always_inline int steer(struct bpf_sock_addr* ctx, struct bpf_sock* sk) {
  __u32 mark = STEER_MARK;
  /* A repeated connect() of a steered socket must not record our own mark as the previous one. */
  if (sk->mark != STEER_MARK) {
    struct steered_socket* steered = bpf_sk_storage_get(&steered_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!steered) return REFUSE;
    steered->previous_mark = sk->mark;
    if (bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark))) return REFUSE;
  }
  count(STAT_OUTBOUND_CAPTURED);
  return PROCEED;
}

/* What on_connect leaves to the hook of the family, which alone can rewrite the address. */
#define REWRITE 2

/* A UDP socket that names its resolver by connect(): see dns.h. */
static __always_inline int on_connect_datagram(struct bpf_sock_addr* ctx, __u64 netns_cookie,
                                               const struct address* destination, struct flow* flow) {
  flow->destination = *destination;
  flow->destination_port = PORT_DNS;
  return capture_resolver(ctx, netns_cookie, &flow->destination) ? REWRITE : PROCEED;
}

/* False when there is no memory. */
static __always_inline int carry(struct bpf_sock_addr* ctx, struct bpf_sock* sk, struct flow* flow) {
  if (!bpf_sk_storage_get(&carried_sockets, sk, flow, BPF_SK_STORAGE_GET_F_CREATE)) return 0;
  pass(ctx);
  return 1;
}

/* Nobody serves: the connection is let by, or refused if the pod is strict. */
static __always_inline int on_connect_unserved(struct bpf_sock_addr* ctx, __u64 netns_cookie,
                                               const struct pod* pod, struct flow* flow) {
  struct bpf_sock* sk = ctx->sk;
  if (!sk) return PROCEED;
  if (pod->flags & POD_STRICT) {
    count_unserved(netns_cookie, 0, 1);
    return REFUSE;
  }
  enum carry_decision decision = choose_unserved(pod, flow);
  if (decision == CARRY_DENIED) return deny();
  count_unserved(netns_cookie, 0, 0);
  if (decision == CARRY_BY_KERNEL && carry(ctx, sk, flow)) return REWRITE;
  return pass(ctx);
}

/*
 * A process of the node connects to a port of a pod that the kubelet probes. Remembered with the socket,
 * until the source port is known and the flow can be recorded (sockops.bpf.c): nobody else's connection is
 * let by for it, and no address has to be believed.
 */
static __always_inline void note_probe(struct bpf_sock_addr* ctx, const struct address* destination) {
  struct probed_key key = {.address = *destination, .port = bpf_ntohs((__u16)ctx->user_port)};
  __u32* pod = bpf_map_lookup_elem(&probed, &key);
  struct bpf_sock* sk = ctx->sk;
  if (!pod || !sk) return;
  struct probe* probe = bpf_sk_storage_get(&probing_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!probe) return;
  probe->destination = key;
  probe->pod = *pod;
}

/*
 * `flow` says where the connection goes when the result is REWRITE.
 */
static __always_inline int on_connect(struct bpf_sock_addr* ctx, const struct address* destination,
                                      struct flow* flow) {
  /* Of datagrams only questions to resolvers are captured. */
  if (ctx->protocol == WEFT_IPPROTO_UDP && ctx->user_port != bpf_htons(PORT_DOMAIN)) return PROCEED;
  __u64 netns_cookie = bpf_get_netns_cookie(ctx);
  struct pod* pod = bpf_map_lookup_elem(&pods, &netns_cookie);
  if (!pod) {
    if (netns_cookie == node_netns_cookie && ctx->protocol == WEFT_IPPROTO_TCP) note_probe(ctx, destination);
    return pass(ctx);
  }

  struct bpf_sock* sk = ctx->sk;
  if (ctx->protocol == WEFT_IPPROTO_UDP) return on_connect_datagram(ctx, netns_cookie, destination, flow);
  if (!sk || ctx->protocol != WEFT_IPPROTO_TCP) return PROCEED;
  if (is_own_address(netns_cookie, destination)) return pass(ctx);
  /* A link-local destination names its interface itself, which overrules the mark; no service has such an
   * address. */
  if (address_is_link_local(destination)) return pass(ctx);
  /* What is sent over lo cannot leave the pod. */
  if (sk->bound_dev_if == LOOPBACK_IFINDEX) return pass(ctx);
  __u32 family_flag = address_is_mapped(destination) ? POD_STEER_IPV4 : POD_STEER_IPV6;
  if (!(pod->flags & family_flag)) return pass(ctx);
  if (bpf_sk_storage_get(&exempt_sockets, sk, 0, 0)) return PROCEED;

  /* A socket may be connected anew: the last decision must not stay with it. */
  if (bpf_sk_storage_get(&carried_sockets, sk, 0, 0)) bpf_sk_storage_delete(&carried_sockets, sk);
  /* Questions over TCP are answered by the agent, whatever the kernel could do with them. */
  int is_dns = ctx->user_port == bpf_htons(PORT_DOMAIN) && is_dns_captured(netns_cookie);
  switch (is_dns ? CARRY_BY_AGENT
                 : choose_backend(pod, destination, bpf_ntohs((__u16)ctx->user_port), flow)) {
    case CARRY_DENIED:
      return deny();
    case CARRY_BY_KERNEL:
      if (carry(ctx, sk, flow)) return REWRITE;
      break;
    default:
      break;
  }

  if ((pod->flags & POD_UNSERVED) || find_worker(netns_cookie, ROLE_OUTBOUND, 0) < 0)
    return on_connect_unserved(ctx, netns_cookie, pod, flow);

  if (!can_steer_from(pod, sk->bound_dev_if)) {
    count(STAT_ESCAPES_REFUSED);
    return REFUSE;
  }
  if (sk->bound_dev_if != 0) announce_bound_syn(netns_cookie, destination, bpf_ntohs((__u16)ctx->user_port));
  return steer(ctx, sk);
}

/* The verifier refuses one wide store where there are two fields: clang must not merge them. */
#define STORE(field, value) (*(volatile __u32*)&(field) = (value))

SEC("cgroup/connect4")
int weft_connect4(struct bpf_sock_addr* ctx) {
  struct address destination = address_from_ipv4(ctx->user_ip4);
  struct flow flow = {};
  int verdict = on_connect(ctx, &destination, &flow);
  if (verdict != REWRITE) return verdict;
  STORE(ctx->user_ip4, flow.destination.words[3]);
  STORE(ctx->user_port, bpf_htons((__u16)flow.destination_port));
  return PROCEED;
}

SEC("cgroup/connect6")
int weft_connect6(struct bpf_sock_addr* ctx) {
  struct address destination = {
      .words = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
  struct flow flow = {};
  int verdict = on_connect(ctx, &destination, &flow);
  if (verdict != REWRITE) return verdict;
  for (int i = 0; i < 4; i++) STORE(ctx->user_ip6[i], flow.destination.words[i]);
  STORE(ctx->user_port, bpf_htons((__u16)flow.destination_port));
  return PROCEED;
}

/* The app sees as its peer what it has dialled. */
static __always_inline struct flow* flow_of(struct bpf_sock_addr* ctx) {
  struct bpf_sock* sk = ctx->sk;
  return sk ? bpf_sk_storage_get(&carried_sockets, sk, 0, 0) : NULL;
}

SEC("cgroup/getpeername4")
int weft_getpeername4(struct bpf_sock_addr* ctx) {
  if (ctx->user_port == bpf_htons(PORT_DNS)) {
    struct address shown = address_from_ipv4(ctx->user_ip4);
    struct address* resolver = resolver_of(ctx, &shown);
    if (resolver) {
      STORE(ctx->user_ip4, resolver->words[3]);
      STORE(ctx->user_port, bpf_htons(PORT_DOMAIN));
      return PROCEED;
    }
  }
  struct flow* flow = flow_of(ctx);
  if (!flow) return PROCEED;
  STORE(ctx->user_ip4, flow->original.words[3]);
  STORE(ctx->user_port, bpf_htons((__u16)flow->original_port));
  return PROCEED;
}

SEC("cgroup/getpeername6")
int weft_getpeername6(struct bpf_sock_addr* ctx) {
  if (ctx->user_port == bpf_htons(PORT_DNS)) {
    struct address shown = {
        .words = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
    struct address* resolver = resolver_of(ctx, &shown);
    if (resolver) {
      for (int i = 0; i < 4; i++) STORE(ctx->user_ip6[i], resolver->words[i]);
      STORE(ctx->user_port, bpf_htons(PORT_DOMAIN));
      return PROCEED;
    }
  }
  struct flow* flow = flow_of(ctx);
  if (!flow) return PROCEED;
  for (int i = 0; i < 4; i++) STORE(ctx->user_ip6[i], flow->original.words[i]);
  STORE(ctx->user_port, bpf_htons((__u16)flow->original_port));
  return PROCEED;
}

/* None of the helpers used here is reserved for GPL programs. */
char weft_license[] SEC("license") = "Apache-2.0";
