/*
 * A program that every verifier rejects, for the test that its log reaches the operator.
 */
#include "../bpf/include/weft/address.h"

SEC("cgroup/connect4")
int weft_rejected(struct bpf_sock_addr* ctx) {
  /* Dereferences a number. */
  return *(volatile int*)(unsigned long)ctx->user_ip4;
}

char weft_license[] SEC("license") = "Apache-2.0";
