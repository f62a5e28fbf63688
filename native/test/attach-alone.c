/*
 * A program of somebody else in the way: attaches one that lets everything by to the IPv4 connect hook of a
 * cgroup, alone (no others allowed), prints `attached`, and detaches it when its input ends.
 *
 *      attach-alone CGROUP
 */
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char** argv) {
  /* r0 = 1; exit */
  const struct bpf_insn code[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
      {.code = BPF_JMP | BPF_EXIT},
  };
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET4_CONNECT);
  int cgroup = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
  int program = bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "loner", "Apache-2.0", code, 2, &options);
  if (cgroup < 0 || program < 0 || bpf_prog_attach(program, cgroup, BPF_CGROUP_INET4_CONNECT, 0) != 0) {
    perror("attach-alone");
    return 1;
  }
  printf("attached\n");
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  bpf_prog_detach2(program, cgroup, BPF_CGROUP_INET4_CONNECT);
  return 0;
}
