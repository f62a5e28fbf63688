/*
 * Build tool: reads the BTF of build/layout.o and prints src/kernel/layout.generated.ts: the size of every
 * struct that kernel and agent share, the offset of each field, and the numbers of the shared enums.
 */
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

static void print_enum(const struct btf* btf, const struct btf_type* type) {
  const struct btf_enum* values = btf_enum(type);
  for (int i = 0; i < btf_vlen(type); i++)
    printf("export const %s = %d\n", btf__name_by_offset(btf, values[i].name_off), values[i].val);
  printf("\n");
}

static void print_struct(const struct btf* btf, const struct btf_type* type) {
  const struct btf_member* members = btf_members(type);
  printf("/** struct %s */\nexport const ", btf__name_by_offset(btf, type->name_off));
  for (const char* c = btf__name_by_offset(btf, type->name_off); *c; c++)
    putchar(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
  printf(" = {\n  bytes: %u,\n", type->size);
  for (int i = 0; i < btf_vlen(type); i++)
    printf("  %s: %u,\n", btf__name_by_offset(btf, members[i].name_off), btf_member_bit_offset(type, i) / 8);
  printf("} as const\n\n");
}

int main(int argc, char** argv) {
  struct btf* btf = argc == 2 ? btf__parse_elf(argv[1], NULL) : NULL;
  if (!btf) {
    fprintf(stderr, "usage: print_layout OBJECT (an ELF file with BTF)\n");
    return 1;
  }
  /* Only what `struct layout` names: the BTF also describes the maps themselves. */
  __s32 root_id = btf__find_by_name_kind(btf, "layout", BTF_KIND_STRUCT);
  if (root_id < 0) {
    fprintf(stderr, "print_layout: %s has no struct layout\n", argv[1]);
    return 1;
  }
  printf("// Generated from the BTF of native/bpf/layout.c by `make -C native`; never edited.\n\n");
  const struct btf_type* root = btf__type_by_id(btf, (__u32)root_id);
  for (int i = 0; i < btf_vlen(root); i++) {
    const struct btf_type* type = btf__type_by_id(btf, btf_members(root)[i].type);
    if (btf_is_enum(type))
      print_enum(btf, type);
    else if (btf_is_struct(type))
      print_struct(btf, type);
  }
  btf__free(btf);
  return 0;
}
