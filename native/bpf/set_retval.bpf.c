/*
 * Loaded to learn whether this kernel has bpf_set_retval in connect hooks; never attached. See connect.bpf.c.
 */
#include "include/weft/address.h"

SEC("cgroup/connect4")
int weft_set_retval(struct bpf_sock_addr* ctx) {
  (void)ctx;
  bpf_set_retval(-1);
  return 0;
}

char weft_license[] SEC("license") = "Apache-2.0";
