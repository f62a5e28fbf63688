/*
 * Build tool: reads the BTF of build/layout.o and prints src/kernel/layout.generated.ts: the size of every
 * struct that kernel and agent share, the offset of each field, and the numbers of the shared enums. Then a
 * hash of all that and of every map that the objects define: two builds with the same hash can use each
 * other's maps; and a hash of what `struct passed` names.
 */
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, 64 bits. */
#define NO_TEXT 0xcbf29ce484222325u
static uint64_t layout_hash = NO_TEXT;
static uint64_t passed_hash = NO_TEXT;

static void hash_text(uint64_t* hash, const char* text) {
  for (; *text; text++) *hash = (*hash ^ (uint8_t)*text) * 0x100000001b3u;
}

/* NULL once everything is printed, and is read again for its hash. */
static FILE* output;

/* Prints, and hashes what is printed. */
static __attribute__((format(printf, 1, 2))) void emit(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= sizeof(text)) abort();
  hash_text(output ? &layout_hash : &passed_hash, text);
  if (output) fputs(text, output);
}

static void print_enum(const struct btf* btf, const struct btf_type* type) {
  const struct btf_enum* values = btf_enum(type);
  for (int i = 0; i < btf_vlen(type); i++)
    emit("export const %s = %d\n", btf__name_by_offset(btf, values[i].name_off), values[i].val);
  emit("\n");
}

static void print_struct(const struct btf* btf, const struct btf_type* type) {
  const struct btf_member* members = btf_members(type);
  emit("/** struct %s */\nexport const ", btf__name_by_offset(btf, type->name_off));
  for (const char* c = btf__name_by_offset(btf, type->name_off); *c; c++)
    emit("%c", *c >= 'a' && *c <= 'z' ? *c - 32 : *c);
  emit(" = {\n  bytes: %u,\n", type->size);
  for (int i = 0; i < btf_vlen(type); i++)
    emit("  %s: %u,\n", btf__name_by_offset(btf, members[i].name_off), btf_member_bit_offset(type, i) / 8);
  emit("} as const\n\n");
}

/* What the verifier holds a program to. The internal maps of an object (its constants) have a dot in the
 * name. */
static int hash_maps(const char* path) {
  struct bpf_object* object = bpf_object__open_file(path, NULL);
  if (!object) {
    fprintf(stderr, "print_layout: %s is not an eBPF object\n", path);
    return -1;
  }
  struct bpf_map* map;
  bpf_object__for_each_map(map, object) {
    if (strchr(bpf_map__name(map), '.')) continue;
    char text[512];
    snprintf(text, sizeof(text), "%s %u %u %u %u %u\n", bpf_map__name(map), bpf_map__type(map),
             bpf_map__key_size(map), bpf_map__value_size(map), bpf_map__max_entries(map),
             bpf_map__map_flags(map));
    hash_text(&layout_hash, text);
  }
  bpf_object__close(object);
  return 0;
}

/* Only what the struct of that name has fields of: the BTF also describes the maps themselves. */
static int print_types(const struct btf* btf, const char* path, const char* root_name) {
  __s32 root_id = btf__find_by_name_kind(btf, root_name, BTF_KIND_STRUCT);
  if (root_id < 0) {
    fprintf(stderr, "print_layout: %s has no struct %s\n", path, root_name);
    return -1;
  }
  const struct btf_type* root = btf__type_by_id(btf, (__u32)root_id);
  for (int i = 0; i < btf_vlen(root); i++) {
    const struct btf_type* type = btf__type_by_id(btf, btf_members(root)[i].type);
    if (btf_is_enum(type))
      print_enum(btf, type);
    else if (btf_is_struct(type))
      print_struct(btf, type);
  }
  return 0;
}

int main(int argc, char** argv) {
  struct btf* btf = argc >= 2 ? btf__parse_elf(argv[1], NULL) : NULL;
  if (!btf) {
    fprintf(stderr, "usage: print_layout LAYOUT [OBJECT...] (ELF files with BTF)\n");
    return 1;
  }
  output = stdout;
  printf("// Generated from the BTF of native/bpf/layout.c by `make -C native`; never edited.\n\n");
  if (print_types(btf, argv[1], "layout") != 0) return 1;
  output = NULL;
  if (print_types(btf, argv[1], "passed") != 0) return 1;
  btf__free(btf);
  for (int i = 2; i < argc; i++)
    if (hash_maps(argv[i]) != 0) return 1;
  printf("/** Of everything above and of every map's definition. */\n");
  printf("export const LAYOUT_HASH = 0x%016llxn\n", (unsigned long long)layout_hash);
  printf(
      "\n/** Of what is in the maps that agents pass on: see `struct passed` in native/bpf/layout.c. */\n");
  printf("export const PASSED_HASH = 0x%016llxn\n", (unsigned long long)passed_hash);
  return 0;
}
