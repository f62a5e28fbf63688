/*
 * cgroup/sendmsg and recvmsg, for UDP: questions that an app sends to a resolver without connecting go to the
 * agent, and answers show the resolver that was asked. See dns.h; connect() and getpeername() are in
 * connect.bpf.c.
 *
 * Whatever does not go to port 53, or does not come from the agent's port, costs one comparison; a question
 * of a netns that is not captured costs one hash look-up more.
 */
#include "include/weft/dns.h"

#define PROCEED 1

/* The verifier refuses one wide store where there are two fields: clang must not merge them. */
#define STORE(field, value) (*(volatile __u32*)&(field) = (value))

SEC("cgroup/sendmsg4")
int weft_sendmsg4(struct bpf_sock_addr* ctx) {
  if (ctx->user_port != bpf_htons(PORT_DOMAIN)) return PROCEED;
  struct address destination = address_from_ipv4(ctx->user_ip4);
  if (!capture_resolver(ctx, bpf_get_netns_cookie(ctx), &destination)) return PROCEED;
  STORE(ctx->user_ip4, destination.words[3]);
  STORE(ctx->user_port, bpf_htons(PORT_DNS));
  return PROCEED;
}

SEC("cgroup/sendmsg6")
int weft_sendmsg6(struct bpf_sock_addr* ctx) {
  if (ctx->user_port != bpf_htons(PORT_DOMAIN)) return PROCEED;
  struct address destination = {
      .words = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
  if (!capture_resolver(ctx, bpf_get_netns_cookie(ctx), &destination)) return PROCEED;
  for (int i = 0; i < 4; i++) STORE(ctx->user_ip6[i], destination.words[i]);
  STORE(ctx->user_port, bpf_htons(PORT_DNS));
  return PROCEED;
}

SEC("cgroup/recvmsg4")
int weft_recvmsg4(struct bpf_sock_addr* ctx) {
  if (ctx->user_port != bpf_htons(PORT_DNS)) return PROCEED;
  struct address shown = address_from_ipv4(ctx->user_ip4);
  struct address* resolver = resolver_of(ctx, &shown);
  if (!resolver) return PROCEED;
  STORE(ctx->user_ip4, resolver->words[3]);
  STORE(ctx->user_port, bpf_htons(PORT_DOMAIN));
  return PROCEED;
}

SEC("cgroup/recvmsg6")
int weft_recvmsg6(struct bpf_sock_addr* ctx) {
  if (ctx->user_port != bpf_htons(PORT_DNS)) return PROCEED;
  struct address shown = {.words = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
  struct address* resolver = resolver_of(ctx, &shown);
  if (!resolver) return PROCEED;
  for (int i = 0; i < 4; i++) STORE(ctx->user_ip6[i], resolver->words[i]);
  STORE(ctx->user_port, bpf_htons(PORT_DOMAIN));
  return PROCEED;
}

char weft_license[] SEC("license") = "Apache-2.0";
