/*
 * The scanner of weft-cni for tests: reads texts from standard input, each as its length (4 bytes,
 * little-endian) and its bytes, and prints a line for each: "refused", or the offset and length of
 * "prevResult".
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../cni/scan.h"

int main(void) {
  unsigned char head[4];
  while (fread(head, 1, sizeof(head), stdin) == sizeof(head)) {
    size_t length = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    /* Exactly as long as the text, so that the sanitizer sees a byte that is read behind it. */
    char* text = malloc(length);
    if (!text || fread(text, 1, length, stdin) != length) return 1;
    struct member member = {.name = "prevResult"};
    if (!scan_object(text, length, &member, 1))
      printf("refused\n");
    else
      printf("%zu %zu\n", member.value.length == 0 ? 0 : (size_t)(member.value.start - text),
             member.value.length);
    free(text);
  }
  return 0;
}
